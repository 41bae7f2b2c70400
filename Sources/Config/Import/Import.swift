/// # Theory of operation
///
/// Reads what other tools describe a development environment with, and writes it as a `.gitpod.yml` with a
/// `workspacekit:` key. Every key of the file is either carried over or named in a diagnostic: nothing is lost silently.
/// What comes out is checked like any other configuration.
public struct Import {
    /// The files that can be read.
    public enum Kind: String, Sendable, CaseIterable {
        /// Gitpod Flex's (Ona's) automations.yaml.
        case automations
        /// devcontainer.json of containers.dev.
        case devcontainer
        /// compose.yaml.
        case compose
    }
    /// What the file was taken for; nil when it is none of them.
    public let kind: Kind?
    /// The configuration; nil when the file could not be read.
    public let text: String?
    /// What could not be carried over, in file order.
    public let diagnostics: [Diagnostic]
    private let source: Source

    /// Reads a file; its name and content say what it is.
    public init(_ bytes: [UInt8], file: String) {
        let isJSON = file.hasSuffix(".json") || file.hasSuffix(".jsonc")
        source = Source(name: file, bytes: isJSON ? plainJSON(bytes) : bytes, role: .whole)
        let importer = Importer()
        guard let root = importer.read(source.bytes) else {
            kind = nil
            text = nil
            diagnostics = importer.checker.diagnostics
            return
        }
        kind = Self.kind(of: file, root)
        switch kind {
        case .automations?: importer.automations(root)
        case .devcontainer?: importer.devcontainer(root)
        case .compose?: importer.compose(root)
        case nil:
            importer.checker.report(
                .error, .wrongType, root, "",
                "neither an automations.yaml, nor a devcontainer.json, nor a compose.yaml")
        }
        text = kind == nil ? nil : YAMLText(importer.document).text
        diagnostics = importer.checker.diagnostics.sorted { $0.mark < $1.mark }
    }

    private static func kind(of file: String, _ root: Node) -> Kind? {
        let name = file.split(separator: "/").last.map { $0.lowercased() } ?? ""
        if name.hasSuffix(".json") || name.hasSuffix(".jsonc") { return root.isMapping ? .devcontainer : nil }
        for kind in Kind.allCases
        where root.isMapping && name.split(whereSeparator: { !$0.isLetter }).contains(kind.rawValue[...]) {
            return kind
        }
        let services = root["services"]?.pairs.map(\.value) ?? []
        if services.contains(where: { $0["commands"] != nil }) { return .automations }
        if !services.isEmpty { return .compose }
        if root["tasks"]?.isMapping == true { return .automations }
        return nil
    }

    /// All diagnostics for people.
    public func rendered(colour: Bool = false) -> [String] {
        let lines = LineIndex(source.bytes)
        return diagnostics.map { $0.rendered(file: source.name, lines: lines, colour: colour) }
    }
}

/// What the three readers have in common: the parts of the configuration to be, and the word for what is lost.
final class Importer {
    let checker = Checker()
    var tasks: [Node] = []
    var ports: [Node] = []
    var environment: [(key: Node, value: Node)] = []
    var image: Node?
    var extensions: Node?
    var user: Node?
    var services: [(String, Node)] = []
    var taskOptions: [(String, Node)] = []
    var forwards: [Node] = []
    /// What a task exports before its commands, and where that is from.
    var exports: [(text: String, node: Node, path: String)] = []

    func read(_ bytes: [UInt8]) -> Node? {
        do throws(YAMLError) {
            guard let root = try YAMLReader.read(bytes).root else { return Node(.mapping([])) }
            return checker.resolved(root)
        } catch {
            checker.report(error)
            return nil
        }
    }

    /// Keys are taken by name; the rest is reported with a reason, or for want of one as unknown.
    func take(
        _ node: Node, _ path: String, _ known: [String: (Node, String) -> Void],
        without reasons: [String: String] = [:],
        ignoring ignored: Set<String> = []
    ) {
        for (key, value) in node.pairs {
            let name = scalarText(key)
            let place = join(path, name)
            if let handler = known[name] {
                if !value.isNull { handler(value, place) }
            } else if !ignored.contains(name), !name.hasPrefix("x-"), name != "$schema" {
                lost(key, place, reasons[name] ?? "nothing here has that meaning")
            }
        }
    }

    func lost(_ node: Node, _ path: String, _ reason: String) {
        checker.report(.warning, .notCarriedOver, node, path, "not carried over: \(reason)")
    }

    func note(_ node: Node, _ path: String, _ text: String) { checker.report(.note, .notCarriedOver, node, path, text) }

    /// The configuration that came of it.
    var document: Node {
        var pairs: [(String, Node)] = []
        func add(_ key: String, _ node: Node?) {
            guard let node else { return }
            pairs.append((key, node))
        }
        add("image", image)
        add("tasks", tasks.isEmpty ? nil : Node(.sequence(tasks)))
        add("ports", ports.isEmpty ? nil : Node(.sequence(ports)))
        add("env", environment.isEmpty ? nil : Node(.mapping(environment)))
        add("vscode", extensions.map { Node(pairs: [("extensions", $0)]) })
        var ours: [(String, Node)] = []
        if let user { ours.append(("user", user)) }
        if !forwards.isEmpty { ours.append(("network", Node(pairs: [("forwards", Node(.sequence(forwards)))]))) }
        if !services.isEmpty { ours.append(("services", Node(pairs: services))) }
        if !taskOptions.isEmpty { ours.append(("tasks", Node(pairs: taskOptions))) }
        add("workspacekit", ours.isEmpty ? nil : Node(pairs: ours))
        return Node(pairs: pairs)
    }
}

/// JSON as it is written by hand (comments, commas before a closing bracket) made plain, each byte in its place.
func plainJSON(_ bytes: [UInt8]) -> [UInt8] {
    var out = bytes
    var index = 0
    var lastComma: Int?
    func blank(_ range: Range<Int>) {
        for place in range where out[place] != 10 && out[place] != 13 { out[place] = 32 }
    }
    while index < bytes.count {
        let byte = bytes[index]
        let next: UInt8? = index + 1 < bytes.count ? bytes[index + 1] : nil
        switch (byte, next) {
        case (34, _):
            lastComma = nil
            index += 1
            while index < bytes.count, bytes[index] != 34 { index += bytes[index] == 92 ? 2 : 1 }
            index += 1
        case (47, 47?):
            let end = bytes[index...].firstIndex(of: 10) ?? bytes.count
            blank(index..<end)
            index = end
        case (47, 42?):
            var end = index + 2
            while end + 1 < bytes.count, !(bytes[end] == 42 && bytes[end + 1] == 47) { end += 1 }
            end = min(end + 2, bytes.count)
            blank(index..<end)
            index = end
        case (44, _):
            lastComma = index
            index += 1
        case (93, _), (125, _):
            if let comma = lastComma { out[comma] = 32 }
            lastComma = nil
            index += 1
        default:
            if byte == 9 { out[index] = 32 }
            if byte != 32, byte != 9, byte != 10, byte != 13 { lastComma = nil }
            index += 1
        }
    }
    return out
}
