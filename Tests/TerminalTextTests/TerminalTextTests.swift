import Testing

@testable import TerminalText

@Suite("Text for terminals")
struct TerminalTextTests {
    private func line(_ text: String) -> String { String(decoding: terminalLine(Array(text.utf8)[...]), as: UTF8.self) }

    @Test(
        "what moves, clears or sets is left out of a line, and colours end with it",
        arguments: [
            ("plain", "plain"), ("a\tb", "a\tb"), ("é漢😀", "é漢😀"), ("", ""),
            ("\u{1b}[2Ja", "a"), ("\u{1b}[Ha\u{1b}[K", "a"), ("\u{1b}ca", "a"), ("\u{1b}(0a", "a"),
            ("\u{1b}7a\u{1b}8", "a"),
            ("\u{1b}]0;title\u{07}a", "a"), ("\u{1b}]52;c;eA==\u{1b}\\a", "a"), ("\u{1b}Pq#0\u{1b}\\a", "a"),
            ("\u{9b}2Ja", "a"), ("\u{9d}0;t\u{9c}a", "a"), ("\u{85}a", "a"), ("a\u{08}\u{08}b\u{07}", "ab"),
            ("a\u{7f}", "a"),
            ("\u{1b}[?1049ha", "a"), ("\u{1b}[>4;2ma", "a"), ("\u{1b}[6na", "a"), ("\u{1b}[1 qa", "a"),
            ("\u{1b}", ""), ("\u{1b}[", ""), ("\u{1b}[31", ""), ("\u{1b}]0;open", ""), ("a\u{1b}[\u{1b}[2Jb", "ab"),
            ("\u{1b}[31mred", "\u{1b}[31mred\u{1b}[0m"), ("\u{1b}[1;38:5:2mx\u{1b}[0m", "\u{1b}[1;38:5:2mx\u{1b}[0m"),
            ("\u{1b}[31mred\u{1b}[m", "\u{1b}[31mred\u{1b}[m"), ("\u{1b}[0;1mx", "\u{1b}[0;1mx\u{1b}[0m"),
            ("10%\r100%", "100%"), ("10%\r", "10%"), ("a\r\u{1b}[Kb", "b"), ("\u{1b}[32ma\rb", "\u{1b}[32mb\u{1b}[0m"),
        ])
    func lines(text: String, expected: String) { #expect(line(text) == expected) }

    @Test("bytes that are no UTF-8 stay, but for those of C1")
    func bytes() {
        #expect(terminalLine([0xff, 0x61, 0xe9, 0xc3][...]) == [0xff, 0x61, 0xe9, 0xc3])
        #expect(terminalLine([0x9b, 0x32, 0x4a, 0x61][...]) == [0x61])
        #expect(terminalLine([0xe2, 0x9b, 0x32, 0x4a, 0x61][...]) == [0xe2, 0x61])
        #expect(terminalLine([0xe2, 0x9b, 0xbd][...]) == [0xe2, 0x9b, 0xbd])
        #expect(terminalLine([0xc2][...]) == [0xc2])
    }

    @Test("no input lets an escape through, whatever its bytes")
    func exhaustive() {
        let alphabet: [UInt8] = [0x1b, 0x5b, 0x5d, 0x9b, 0xc2, 0x6d, 0x33, 0x3b, 0x07, 0x5c, 0x0d, 0x4a, 0xe2, 0x3f]
        var input = [Int](repeating: 0, count: 5)
        for _ in 0..<(14 * 14 * 14 * 14 * 14) {
            let out = terminalLine(input.map { alphabet[$0] }[...])
            var rest = ControlSequences(out[...])
            while let (piece, bytes) = rest.next() {
                #expect(piece == .text || piece == .style, "\(input.map { alphabet[$0] })")
                if piece == .text { #expect(!bytes.contains(0x1b)) }
            }
            var place = 0
            while place < input.count {
                input[place] += 1
                if input[place] < alphabet.count { break }
                input[place] = 0
                place += 1
            }
        }
    }

    @Test(
        "text from inside is one line without anything that a terminal acts on",
        arguments: [
            ("web", "web"), ("a\nb\tc", "a b c"), ("\u{1b}[31mred\u{1b}[0m", "red"), ("\u{1b}]0;x\u{07}t", "t"),
            ("\u{202e}evil\u{2066}", "evil"), ("a\u{2028}b", "a b"), ("\u{9b}Ab", "b"), ("é漢", "é漢"), ("\u{1b}[2J", ""),
        ])
    func visible(text: String, expected: String) { #expect(visibleText(text) == expected) }

    @Test(
        "columns are counted as terminals do",
        arguments: [("abc", 3), ("é", 1), ("e\u{301}", 1), ("漢字", 4), ("😀", 2), ("⚙\u{fe0f}", 2), ("한", 2), ("", 0)])
    func columns(text: String, expected: Int) { #expect(columnCount(text) == expected) }

    @Test("a text is cut between characters, and padded by columns")
    func fitting() {
        #expect(
            fitted("漢字", columns: 3) == "漢" && fitted("abc", columns: 2) == "ab" && fitted("abc", columns: 9) == "abc")
        #expect(padded("漢", columns: 4) == "漢  " && padded("abcde", columns: 3) == "abcde")
    }
}

@Suite("Help")
struct HelpTextTests {
    static let text = """
        OVERVIEW: One thing that is done, in a sentence that is long.

        A paragraph that the source
        broke into lines of its own.

          workspacekit thing --with options | and a pipe that is longer than the width

        USAGE: workspacekit thing [--state-dir <dir>] [--follow] [--last <last>] <name> ...

        ARGUMENTS:
          <name>                  Which of all the things that there are is meant by the one who asks.

        OPTIONS:
          -f, --follow            Go on as more is printed, until the workspace ends.
          --network <sandbox|host|none>
                                  A network of its own, or the container's, or none at all.
          -h, --help              Show help information.

          See 'workspacekit help thing <subcommand>' for detailed help.
        """

    @Test(
        "paragraphs are filled, examples stay whole, explanations keep their column", arguments: [40, 60, 80, 100, 200])
    func wraps(width: Int) {
        let lines = HelpText(Self.text).wrapped(to: width).split(separator: "\n", omittingEmptySubsequences: false)
        let example = "  workspacekit thing --with options | and a pipe that is longer than the width"
        #expect(lines.contains { $0 == example })
        for line in lines where line != example && !line.hasPrefix("  See '") {
            #expect(line.count <= width, "\(line)")
        }
        let follow = lines.firstIndex { $0.hasPrefix("  -f, --follow            Go on") } ?? 0
        #expect(follow > 0 && (width >= 80 || lines[follow + 1].hasPrefix("                          ")))
        #expect(lines.contains { $0.hasPrefix("  --network <sandbox|host|none>") && $0.count == 31 })
        if width == 80 {
            #expect(lines.contains("A paragraph that the source broke into lines of its own."))
            #expect(lines.contains("USAGE: workspacekit thing [--state-dir <dir>] [--follow] [--last <last>] <name>"))
            #expect(lines.contains("       ..."))
        }
        // Nothing is lost.
        let words = { (text: String) in text.split { $0 == " " || $0 == "\n" } }
        #expect(words(HelpText(Self.text).wrapped(to: width)) == words(Self.text))
    }
}
