import FoundationEssentials
import Testing

@testable import Config

/// 236 real files with a reference reading, where the developers' shared folder is present.
@Suite("Corpus")
struct CorpusTests {
    private struct Entry: Decodable {
        struct Parse: Decodable {
            var ok: Bool
            var line: Int?
        }
        struct Task: Decodable {
            var name: String?
            var text: [String: String]?
            var env: [String: JSON]?
            var openIn: String?, openMode: String?
        }
        struct Port: Decodable {
            var kind: String
            var start: Int?, end: Int?
            var name: String?, description: String?, onOpen: String?, visibility: String?
        }
        struct Image: Decodable {
            var kind: String
            var value: String?, file: String?, context: String?
        }
        var parse: Parse
        var root_type: String?
        var tasks: [Task]?
        var ports: [Port]?
        var image: Image?
        var experimentalNetwork: Bool?
        var checkoutLocation: String?, workspaceLocation: String?, mainConfiguration: String?
        var env: [String: JSON]?
        var gitConfig: [String: String]?
        var vscode_extensions: [String]?
        var unknown_top_level_keys: [String]?
        var yaml11_vs_12_scalars: [JSON]
    }

    /// A scalar of either kind, as a text.
    private struct JSON: Decodable {
        let text: String
        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let on = try? container.decode(Bool.self) {
                text = on ? "true" : "false"
            } else if let number = try? container.decode(Int.self) {
                text = String(number)
            } else {
                text = (try? container.decode(String.self)) ?? "?"
            }
        }
    }

    private static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(
        path: "../../../shared/corpus/shared", directoryHint: .isDirectory
    ).standardized

    @Test(
        "real files read as the reference says",
        .enabled(if: FileManager.default.fileExists(atPath: folder.path), "no ../shared here"))
    func readsAsTheReference() throws {
        let data = try Data(contentsOf: Self.folder.appending(path: "expected.json"))
        let entries = try JSONDecoder().decode([String: Entry].self, from: data)
        #expect(entries.count > 200)
        for (name, entry) in entries {
            let bytes = Array(try Data(contentsOf: Self.folder.appending(path: name)))
            let reading = Reading(bytes, file: name)
            let syntax = reading.diagnostics.first { $0.code == .syntax }
            #expect((syntax == nil) == entry.parse.ok, "\(name)")
            if let line = entry.parse.line, let syntax { #expect(abs(syntax.mark.line - line) <= 2, "\(name)") }
            if entry.parse.ok, entry.root_type == "mapping" { compare(reading, entry, name) }
        }
    }

    private func compare(_ reading: Reading, _ entry: Entry, _ name: String) {
        let document = reading.document
        let tasks = document["tasks"]?.items ?? []
        #expect(tasks.count == entry.tasks?.count ?? 0, "\(name)")
        for (ours, theirs) in zip(tasks, entry.tasks ?? []) {
            #expect(ours["name"]?.text == theirs.name, "\(name)")
            for phase in ["before", "init", "prebuild", "command"] {
                #expect(ours[phase]?.text == theirs.text?[phase], "\(name) \(phase)")
            }
            // Where YAML 1.1 and 1.2 differ, ours is 1.2.
            if entry.yaml11_vs_12_scalars.isEmpty {
                let env = ours["env"]?.pairs.map { ($0.key.text ?? "", $0.value.text ?? "") } ?? []
                #expect(Dictionary(env, uniquingKeysWith: { $1 }) == (theirs.env ?? [:]).mapValues(\.text), "\(name)")
            }
        }
        let ports = reading.configuration.ports
        let wanted = (entry.ports ?? []).filter { $0.kind != "missing" }
        #expect(ports.count == wanted.count, "\(name)")
        for (ours, theirs) in zip(ports, wanted) {
            #expect(Int(ours.ports.lowerBound) == theirs.start && Int(ours.ports.upperBound) == theirs.end, "\(name)")
            #expect(ours.name == theirs.name && ours.description == theirs.description, "\(name)")
            #expect(ours.onOpen == theirs.onOpen, "\(name)")
            // A single port is a number again, a range a text.
            #expect(theirs.kind == (ours.ports.count == 1 ? "single" : "range"), "\(name)")
        }
        #expect(document["image"]?.text == entry.image?.value, "\(name)")
        #expect(document["image"]?["file"]?.text == entry.image?.file, "\(name)")
        #expect(document["experimentalNetwork"]?.flag == entry.experimentalNetwork, "\(name)")
        for (key, value) in [
            ("checkoutLocation", entry.checkoutLocation), ("workspaceLocation", entry.workspaceLocation),
            ("mainConfiguration", entry.mainConfiguration),
        ] { #expect(document[key]?.text == value, "\(name) \(key)") }
        if let extensions = entry.vscode_extensions {
            #expect(document["vscode"]?["extensions"]?.texts == extensions, "\(name)")
        }
        for key in entry.unknown_top_level_keys ?? [] {
            #expect(reading.diagnostics.contains { $0.message.hasPrefix("unknown key \"\(key)\"") }, "\(name) \(key)")
        }
        let git = reading.configuration.gitConfig.map { ($0.name, $0.value) }
        #expect(Dictionary(git, uniquingKeysWith: { $1 }) == entry.gitConfig ?? [:], "\(name)")
    }
}
