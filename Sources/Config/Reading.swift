/// A file to read: its bytes, and the name that diagnostics show.
public struct Source: Hashable, Sendable {
    /// Where a file's content belongs.
    public enum Role: String, Sendable {
        /// `.gitpod.yml`: the whole.
        case whole
        /// `.workspacekit.yml`: what stands under `workspacekit:` otherwise.
        case extensions
    }
    /// What diagnostics call it.
    public var name: String
    /// Its content.
    public var bytes: [UInt8]
    /// Where its content belongs.
    public var role: Role

    /// A file's content. Without a role, its name decides.
    public init(name: String, bytes: [UInt8], role: Role? = nil) {
        self.name = name
        self.bytes = bytes
        self.role = role ?? (name.hasSuffix(".workspacekit.yml") ? .extensions : .whole)
    }
}

/// A configuration as read: the model, as far as the files gave one, and what there is to say about it.
public struct Reading: Sendable {
    /// The model, as far as the files gave one.
    public let configuration: WorkspaceConfiguration
    /// What counts of the files, as a tree with Gitpod's key names.
    public let document: Node
    /// In file order.
    public private(set) var diagnostics: [Diagnostic]
    /// The files, as ``Mark/file`` numbers them.
    public let sources: [Source]

    /// Reads one file.
    public init(_ bytes: [UInt8], file: String) { self.init([Source(name: file, bytes: bytes)]) }

    /// Reads a `.gitpod.yml`, a `.workspacekit.yml`, or both.
    public init(_ sources: [Source]) {
        self.sources = sources
        let checker = Checker()
        let document = Self.document(sources, checker)
        let configuration = WorkspaceConfiguration(decoding: document)
        References(configuration, document, checker).check()
        checker.reportForeignKeys()
        self.document = document
        self.configuration = configuration
        diagnostics = Self.sorted(checker.diagnostics)
    }

    /// One tree of all files.
    private static func document(_ sources: [Source], _ checker: Checker) -> Node {
        var whole = Node(.mapping([]))
        var extensions: (key: Node, value: Node)?
        for (index, source) in sources.enumerated() {
            guard let root = root(source, index, checker) else { continue }
            let shape = Shape.record(source.role == .whole ? GitpodKeys.root : WorkspacekitKeys.root)
            guard let checked = checker.check(root, shape, "") else { continue }
            if source.role == .whole {
                whole = checked
            } else {
                let key = Node(
                    content: .scalar("workspacekit", isPlain: true), start: checked.start, end: checked.start)
                extensions = (key, checked)
            }
        }
        guard let extensions else { return whole }
        if let own = whole.pairs.first(where: { $0.key.text == "workspacekit" }) {
            checker.report(
                .error, .conflict, own.key, "workspacekit",
                "a .workspacekit.yml stands beside this file: use one place or the other")
            return whole
        }
        return Node(
            content: .mapping(whole.pairs + [extensions]), start: whole.start, end: whole.end,
            weight: whole.weight + extensions.value.weight)
    }

    private static func root(_ source: Source, _ index: Int, _ checker: Checker) -> Node? {
        do throws(YAMLError) {
            let document = try YAMLReader.read(source.bytes, file: index)
            if let second = document.second {
                checker.report(
                    .warning, .severalDocuments, Node(content: .mapping([]), start: second, end: second), "",
                    "only the first document of the file counts")
            }
            guard let root = document.root, !root.isNull else { return nil }
            return root
        } catch {
            checker.report(error)
            return nil
        }
    }

    /// In file order; what an alias repeats is said once.
    private static func sorted(_ diagnostics: [Diagnostic]) -> [Diagnostic] {
        struct Identity: Hashable {
            let mark: Mark, message: String
        }
        var seen: Set<Identity> = []
        let once = diagnostics.filter { seen.insert(Identity(mark: $0.mark, message: $0.message)).inserted }
        // A stable order, so that two runs say the same.
        return once.enumerated().sorted { ($0.element.mark, $0.offset) < ($1.element.mark, $1.offset) }.map(\.element)
    }

    /// Adds what only the machine could tell, such as a user that does not exist.
    public mutating func add(_ more: [Diagnostic]) { diagnostics = Self.sorted(diagnostics + more) }

    /// Whether there is an error: then the configuration must not be used.
    public var hasErrors: Bool { diagnostics.contains { $0.severity == .error } }

    /// The name of the file that a place is in.
    public func file(_ mark: Mark) -> String {
        sources.indices.contains(mark.file) ? sources[mark.file].name : sources.first?.name ?? ".gitpod.yml"
    }

    /// How many diagnostics people are shown; ``diagnosticsJSON`` has them all.
    static let shownLimit = 200

    /// The diagnostics for people, the first 200 of them; without notes where only what matters is wanted.
    public func rendered(notes: Bool = true, colour: Bool = false) -> [String] {
        let wanted = diagnostics.filter { notes || $0.severity != .note }
        if wanted.isEmpty { return [] }
        let lines = sources.map { LineIndex($0.bytes) }
        var texts = wanted.prefix(Self.shownLimit).map {
            $0.rendered(
                file: file($0.mark), lines: lines.indices.contains($0.mark.file) ? lines[$0.mark.file] : nil,
                colour: colour)
        }
        if wanted.count > Self.shownLimit {
            let rest = wanted.count - Self.shownLimit
            texts.append("\(sources.first?.name ?? ""): and \(rest) more (\"workspacekit validate --json\" shows all)")
        }
        return texts
    }
}
