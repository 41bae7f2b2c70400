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
        }
        var parse: Parse
        var tasks: [Task]?
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
            if entry.parse.ok, !reading.hasErrors {
                let tasks = reading.configuration.tasks
                #expect(tasks.count == entry.tasks?.count ?? 0, "\(name)")
                for (ours, theirs) in zip(tasks, entry.tasks ?? []) {
                    #expect(ours.name == theirs.name, "\(name)")
                    #expect(ours.before == theirs.text?["before"], "\(name)")
                    #expect(ours.initialize == theirs.text?["init"], "\(name)")
                    #expect(ours.command == theirs.text?["command"], "\(name)")
                }
            }
        }
    }
}
