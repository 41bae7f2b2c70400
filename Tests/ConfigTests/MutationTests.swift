import FoundationEssentials
import TestSupport
import Testing

@testable import Config

/// Files with bytes and lines flipped, dropped and doubled: each gives a model or a diagnostic with a place in the file,
/// and never a trap. 50 files, 400 variants of each.
@Suite("Mutations")
struct MutationTests {
    @Test("no variant traps, and each diagnostic has a place", arguments: 0..<50)
    func variants(file: Int) throws {
        // A bomb is bounded, but not quick in a debug build.
        let names = GoldenTests.names.filter { $0 != "bomb" }
        let base = try GoldenTests.bytes(names[file % names.count] + ".yml")
        var random = SeededGenerator(seed: UInt64(file) &* 7919 &+ 1)
        for _ in 0..<400 {
            let bytes = Bool.random(using: &random) ? bytewise(base, &random) : linewise(base, &random)
            check(Reading(bytes, file: "f"))
        }
    }

    private func check(_ reading: Reading) {
        let lines = LineIndex(reading.sources[0].bytes)
        for diagnostic in reading.diagnostics {
            let mark = diagnostic.mark
            #expect(mark.file == 0 && mark.line >= 1 && mark.column >= 1 && !diagnostic.message.isEmpty)
            // The end of the file may be a line of its own.
            #expect(mark.line <= lines.count + 1)
            #expect(mark.column <= reading.sources[0].bytes.count + 2)
        }
        _ = reading.rendered()
        if !reading.hasErrors {
            #expect(reading.effectiveText(json: true).first == "{")
            // What is shown is a configuration again, and says the same.
            let again = Reading(Array(reading.documentText(json: false).utf8), file: "f")
            #expect(!again.hasErrors)
            #expect(again.documentText(json: true) == reading.documentText(json: true))
        }
    }

    private func bytewise(_ base: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
        var bytes = base
        for _ in 0...Int.random(in: 0..<4, using: &random) where !bytes.isEmpty {
            let at = Int.random(in: 0..<bytes.count, using: &random)
            switch Int.random(in: 0..<4, using: &random) {
            case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
            case 1: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 2: bytes.remove(at: at)
            default: bytes.insert(bytes[at], at: at)
            }
        }
        return bytes
    }

    private func linewise(_ base: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
        var lines = base.split(separator: 10, omittingEmptySubsequences: false)
        for _ in 0...Int.random(in: 0..<3, using: &random) where !lines.isEmpty {
            let at = Int.random(in: 0..<lines.count, using: &random)
            switch Int.random(in: 0..<3, using: &random) {
            case 0: lines.remove(at: at)
            case 1: lines.insert(lines[at], at: at)
            default: lines.swapAt(at, Int.random(in: 0..<lines.count, using: &random))
            }
        }
        return Array(lines.joined(separator: [10]))
    }
}
