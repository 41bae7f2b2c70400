/// # Theory of operation
///
/// The configuration is described once, as data: ``Shape`` says what a value may be, ``Key`` what a mapping may hold,
/// ``Schema`` is the whole. The checker (``Checker``), the JSON Schema for editors, `docs/configuration.md`, the manual
/// page and the defaults that `config show --defaults` fills in are all read from this one table, so none can say what
/// another does not.
public indirect enum Shape: Sendable {
    /// A scalar whose text has a format.
    case text(Format)
    case boolean
    case integer(ClosedRange<Int>)
    /// One of these words; `retired` ones are still read, with a warning.
    case choice([String], retired: [String] = [])
    case list(Shape)
    /// A mapping with these keys only; just one of those in `oneOf` has to be there.
    case record([Key], oneOf: [String] = [])
    /// A mapping from names of one's own to values.
    case table(names: Format, Shape)
    /// Environment variables: a mapping of any values, or a list of NAME=value. `fromHost`: a NAME alone, or one without a
    /// value, takes it from the environment outside, as in Compose.
    case variables(fromHost: Bool = false, names: Format = .variable)
    /// Anything at all.
    case anything
    /// The first whose kind of node it is.
    case oneOf([Shape], expected: String)

    /// Text without further rules.
    static let string = Shape.text(.any)
}

/// A key of a mapping, and everything that is said about it.
public struct Key: Sendable {
    /// What the key does here.
    public enum Standing: Hashable, Sendable {
        case effective
        /// It speaks to another tool: checked, and without effect here.
        case foreign
        case deprecated
        /// It does what another key does, by whose path it is to be written.
        case replaced(by: String)
        /// Known, and without effect in this version.
        case later
    }
    /// As it is written.
    public let name: String
    /// What its value may be.
    public let shape: Shape
    /// What it does, in a sentence without its full stop.
    public let summary: String
    /// A value as one would write it, in flow style.
    public let example: String?
    /// What holds where the key is absent.
    public let fallback: ScalarValue?
    /// Without it the mapping has no meaning.
    public let isRequired: Bool
    /// What it does here.
    public let standing: Standing

    /// A new file does not have it.
    var isDeprecated: Bool {
        switch standing {
        case .deprecated, .replaced: true
        case .effective, .foreign, .later: false
        }
    }

    init(
        _ name: String, _ shape: Shape, _ summary: String, example: String? = nil, default fallback: ScalarValue? = nil,
        required: Bool = false, _ standing: Standing = .effective
    ) {
        self.name = name
        self.shape = shape
        self.summary = summary
        self.example = example
        self.fallback = fallback
        isRequired = required
        self.standing = standing
    }
}

extension Shape {
    /// Whether a node is of the kind that this shape takes; its text may still be wrong.
    func admits(_ node: Node) -> Bool {
        switch (self, node.content) {
        case (.anything, _), (.text, .scalar), (.choice, .scalar), (.list, .sequence), (.record, .mapping),
            (.table, .mapping), (.variables, .mapping), (.variables, .sequence):
            true
        case (.boolean, .scalar): if case .boolean? = node.value { true } else { false }
        case (.integer, .scalar): if case .integer? = node.value { true } else { false }
        case (.oneOf(let shapes, _), _): shapes.contains { $0.admits(node) }
        default: false
        }
    }

    /// What a value has to be, in words: `expected …`.
    var expectation: String {
        switch self {
        case .text(let format): format.expectation
        case .boolean: "true or false"
        case .integer: "a whole number"
        case .choice(let words, _): "one of \(words.joined(separator: ", "))"
        case .list: "a list"
        case .record, .table: "a mapping"
        case .variables: "a mapping or a list of NAME=value"
        case .anything: "a value"
        case .oneOf(_, let expected): expected
        }
    }
}
