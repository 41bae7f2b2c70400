/// A place in a file.
public struct Mark: Hashable, Sendable, Comparable {
    /// Which of the files that were read together; see ``Reading/sources``.
    public var file: Int
    /// From 1. The column counts characters (Unicode scalars).
    public var line: Int, column: Int

    /// A place.
    public init(file: Int = 0, line: Int, column: Int) {
        self.file = file
        self.line = line
        self.column = column
    }

    /// Where a value stands that no file gave: a default.
    static let none = Mark(file: -1, line: 0, column: 0)

    /// By file, line, then column.
    public static func < (a: Mark, b: Mark) -> Bool {
        (a.file, a.line, a.column) < (b.file, b.line, b.column)
    }
}

/// A node of a YAML document that knows where it stands. Aliases are resolved: an aliased node appears again. Immutable,
/// so that it is shared, never copied.
public final class Node: Sendable {
    /// What it holds.
    public enum Content: Sendable {
        /// A scalar's text; quoted and block scalars are never anything but strings.
        case scalar(String, isPlain: Bool)
        case sequence([Node])
        /// Pairs in file order, duplicates and merge keys as written.
        case mapping([(key: Node, value: Node)])
    }
    /// What it holds.
    public let content: Content
    /// Where it begins, and the place after its last character.
    public let start: Mark, end: Mark
    /// This node and all below it, aliases expanded.
    let weight: Int

    init(content: Content, start: Mark, end: Mark, weight: Int = 1) {
        self.content = content
        self.start = start
        self.end = end
        self.weight = weight
    }

    /// A value that no file gave.
    convenience init(_ content: Content) { self.init(content: content, start: .none, end: .none) }

    /// A scalar that no file gave.
    convenience init(_ value: ScalarValue) {
        switch value {
        case .string(let text): self.init(.scalar(text, isPlain: false))
        case .null: self.init(.scalar("null", isPlain: true))
        case .boolean(let on): self.init(.scalar(on ? "true" : "false", isPlain: true))
        case .integer(let number): self.init(.scalar(String(number), isPlain: true))
        case .float(let number): self.init(.scalar(String(number), isPlain: true))
        }
    }

    /// What a plain scalar means in the YAML 1.2 core schema; a quoted one is a string.
    public var value: ScalarValue? {
        guard case .scalar(let text, let isPlain) = content else { return nil }
        return isPlain ? ScalarValue(core: text) : .string(text)
    }

    /// A scalar's text as written; nil for other kinds.
    public var text: String? {
        if case .scalar(let text, _) = content { return text }
        return nil
    }

    /// A list's elements; none for other kinds.
    public var items: [Node] {
        if case .sequence(let items) = content { return items }
        return []
    }

    /// A mapping's pairs; none for other kinds.
    public var pairs: [(key: Node, value: Node)] {
        if case .mapping(let pairs) = content { return pairs }
        return []
    }

    /// The value of a mapping's key, once merge keys and duplicates are resolved.
    public subscript(_ key: String) -> Node? { pairs.first { $0.key.text == key }?.value }

    var isMapping: Bool {
        if case .mapping = content { return true }
        return false
    }

    var isNull: Bool { value == .null }

    /// The kind in words, for diagnostics.
    var kind: String {
        switch content {
        case .sequence: return "a list"
        case .mapping: return "a mapping"
        case .scalar:
            switch value {
            case .null?: return "null"
            case .boolean?: return "a boolean"
            case .integer?, .float?: return "a number"
            default: return "a string"
            }
        }
    }
}

/// A scalar by the YAML 1.2 core schema (10.3.2): `yes`, `on`, `22:22` are strings, `010` is ten, `0o17` fifteen.
public enum ScalarValue: Hashable, Sendable {
    case null
    case boolean(Bool)
    case integer(Int)
    case float(Double)
    case string(String)

    /// Resolves a plain scalar's text.
    public init(core text: String) {
        switch text {
        case "", "~", "null", "Null", "NULL": self = .null
        case "true", "True", "TRUE": self = .boolean(true)
        case "false", "False", "FALSE": self = .boolean(false)
        case ".nan", ".NaN", ".NAN": self = .float(.nan)
        default: self = Self.number(text) ?? .string(text)
        }
    }

    private static func number(_ text: String) -> ScalarValue? {
        let bytes = Array(text.utf8)
        let isDigit = { (byte: UInt8) in byte >= 48 && byte <= 57 }
        let unsigned = bytes.first == 43 || bytes.first == 45 ? bytes.dropFirst() : bytes[...]
        if !unsigned.isEmpty, unsigned.allSatisfy(isDigit) {
            return Int(text).map { .integer($0) } ?? Double(text).map { .float($0) }
        }
        if text.hasPrefix("0o"), let value = Int(text.dropFirst(2), radix: 8), bytes[2] != 43, bytes[2] != 45 {
            return .integer(value)
        }
        if text.hasPrefix("0x"), let value = Int(text.dropFirst(2), radix: 16), bytes[2] != 43, bytes[2] != 45 {
            return .integer(value)
        }
        let bare = String(decoding: unsigned, as: UTF8.self)
        if [".inf", ".Inf", ".INF"].contains(bare) { return .float(text.hasPrefix("-") ? -.infinity : .infinity) }
        // [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?
        var rest = unsigned
        let whole = rest.prefix(while: isDigit)
        rest = rest.dropFirst(whole.count)
        if rest.first == 46 {
            rest = rest.dropFirst()
            let fraction = rest.prefix(while: isDigit)
            if whole.isEmpty, fraction.isEmpty { return nil }
            rest = rest.dropFirst(fraction.count)
        } else if whole.isEmpty {
            return nil
        }
        if rest.first == 69 || rest.first == 101 {
            rest = rest.dropFirst()
            if rest.first == 43 || rest.first == 45 { rest = rest.dropFirst() }
            let exponent = rest.prefix(while: isDigit)
            if exponent.isEmpty { return nil }
            rest = rest.dropFirst(exponent.count)
        }
        return rest.isEmpty ? Double(text).map { .float($0) } : nil
    }
}
