import Testing

@testable import Supervisor

@Suite("Console text")
struct ConsoleTextTests {
    private func lines(_ text: inout ConsoleText, _ pairs: [(String, String)]) -> [String] {
        pairs.map { name, line in
            let place = text.add(name)
            return String(decoding: text.prefix(of: place) + ConsoleText.shown(Array(line.utf8)[...]), as: UTF8.self)
        }
    }

    @Test("for a program that reads, a name and the line")
    func piped() {
        var text = ConsoleText(isTerminal: false, hasColours: true)
        for name in ["a", "a-long-name"] { _ = text.add(name) }
        #expect(lines(&text, [("a", "x"), ("a-long-name", "y")]) == ["[a] x", "[a-long-name] y"])
    }

    @Test("on a terminal the lines are aligned, with names as wide as they are")
    func aligned() {
        var text = ConsoleText(isTerminal: true, hasColours: false)
        for name in ["a", "漢字"] { _ = text.add(name) }
        #expect(lines(&text, [("a", "x"), ("漢字", "y")]) == ["[a]    x", "[漢字] y"])
        // Who comes later moves those that follow; a name that is very long moves none.
        #expect(lines(&text, [("longer", "z"), ("a", "x")]) == ["[longer] z", "[a]      x"])
        let endless = String(repeating: "n", count: 60)
        #expect(lines(&text, [(endless, "z")]) == ["[\(endless)] z"])
        #expect(lines(&text, [("a", "x")]) == ["[a]" + String(repeating: " ", count: 24) + "x"])
    }

    @Test("each unit has its colour, the same from line to line")
    func coloured() {
        var text = ConsoleText(isTerminal: true, hasColours: true)
        let shown = lines(&text, [("a", "x"), ("b", "y"), ("a", "z")])
        #expect(shown[0] == "\u{1b}[36m[a]\u{1b}[0m x" && shown[1] == "\u{1b}[33m[b]\u{1b}[0m y")
        #expect(shown[2] == "\u{1b}[36m[a]\u{1b}[0m z")
        let many = (0..<40).map { ("unit-\($0)", "x") }
        #expect(lines(&text, many).allSatisfy { $0.hasPrefix("\u{1b}[") && !$0.hasPrefix("\u{1b}[31m") })
    }

    @Test("neither a line nor a name moves the cursor, and colours end with their line")
    func harmless() {
        var text = ConsoleText(isTerminal: false, hasColours: false)
        #expect(
            lines(&text, [("a", "\u{1b}[2J\u{1b}[Hx"), ("a", "\u{1b}[31mred")]) == [
                "[a] x", "[a] \u{1b}[31mred\u{1b}[0m",
            ])
        #expect(lines(&text, [("\u{1b}[2Jevil\nname", "x")]) == ["[evil name] x"])
    }
}
