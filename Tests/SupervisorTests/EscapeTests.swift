import Testing

@testable import Supervisor

@Suite("EscapeSequences")
struct EscapeTests {
    @Test(
        "a line without its escape sequences",
        arguments: [
            ("plain", "plain"), ("\u{1b}[32m\u{1b}[1mVITE\u{1b}[22m v5\u{1b}[39m ready", "VITE v5 ready"),
            ("\u{1b}]0;title\u{7}after", "after"), ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}(Bx", "x"), ("\u{1b}[?25lx\u{1b}[K", "x"), ("cut\u{1b}", "cut"), ("cut\u{1b}[3", "cut"),
            ("cut\u{1b}]0;never ends", "cut"), ("\u{1b}=x\u{1b}7y", "xy"), ("\u{1b}[1é", "é"),
        ])
    func removed(line: String, text: String) {
        #expect(String(decoding: EscapeSequences.removed(from: Array(line.utf8)[...]), as: UTF8.self) == text)
    }
}
