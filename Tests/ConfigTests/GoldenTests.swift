import FoundationEssentials
import Testing

@testable import Config

/// The folder of this file.
let here = URL(filePath: #filePath).deletingLastPathComponent()

/// The names of a folder's files with that ending, without it.
func files(in folder: URL, ending: String) -> [String] {
    let all = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    return all.filter { $0.hasSuffix(ending) }.map { String($0.dropLast(ending.count)) }.sorted()
}

/// Files with what is to be said about them (NAME.txt) and what counts of them (NAME.json).
///
/// UPDATE_GOLDEN=1 writes both anew; read the difference before you commit it.
@Suite("Golden files")
struct GoldenTests {
    static let folder = here.appending(path: "Golden")
    static let names: [String] = files(in: folder, ending: ".yml")

    static func bytes(_ name: String) throws -> [UInt8] { Array(try Data(contentsOf: folder.appending(path: name))) }

    @Test("each file gives its diagnostics and its document", arguments: names)
    func golden(_ name: String) throws {
        let reading = Reading(try Self.bytes(name + ".yml"), file: name + ".yml")
        let said = reading.rendered().map { $0 + "\n" }.joined()
        try compare(said, with: Self.folder.appending(path: name + ".txt"))
        if !reading.hasErrors {
            try compare(
                reading.documentText(json: true) + "\n", with: Self.folder.appending(path: name + ".json"))
        }
    }

    @Test("there are a few dozen of them")
    func enough() { #expect(Self.names.count > 50) }
}

/// Compares with a file, or with UPDATE_GOLDEN writes it.
func compare(_ text: String, with file: URL) throws {
    if ProcessInfo.processInfo.environment["UPDATE_GOLDEN"] != nil {
        try Data(text.utf8).write(to: file)
    }
    let expected = String(decoding: try Data(contentsOf: file), as: UTF8.self)
    #expect(text == expected, "\(file.lastPathComponent)")
}
