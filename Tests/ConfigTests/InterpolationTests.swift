import Testing

@testable import Config

@Suite("Interpolation")
struct InterpolationTests {
    static let values = ["A": "a", "EMPTY": "", "X_1": "x"]

    @Test(
        "variables are put in as Compose does",
        arguments: [
            ("", ""), ("plain", "plain"), ("${A}", "a"), ("-${A}-${X_1}-", "-a-x-"), ("${NONE}", ""), ("${EMPTY}", ""),
            ("${NONE:-d}", "d"), ("${EMPTY:-d}", "d"), ("${A:-d}", "a"), ("${NONE-d}", "d"), ("${EMPTY-d}", ""),
            ("${NONE:-}", ""), ("${NONE:-a b:c}", "a b:c"), ("${A:?why}", "a"), ("${EMPTY?why}", ""),
            ("$A", "$A"), ("$", "$"), ("$$", "$"), ("$${A}", "${A}"), ("${", "${"), ("${}", "${}"), ("${1}", "${1}"),
            ("${A", "${A"), ("${A B}", "${A B}"), ("${NONE:-${A}}", "a"), ("${NONE:-${NONE:-${A}b}c}", "abc"),
            ("${A:+x${A}}", "xa"), ("${NONE:+x}", ""), ("${EMPTY+x}", "x"), ("${EMPTY:+x}", ""), ("$$$$", "$$"),
            ("${NONE:-$$}", "$"), ("${NONE:-a}b}", "ab}"), ("$(x)", "$(x)"), ("€${A}", "€a"),
        ])
    func interpolates(text: String, expected: String) {
        #expect(interpolate(text) { Self.values[$0] } == .success(expected))
    }

    @Test(
        "a variable that has to be there is missed",
        arguments: [("${NONE:?say it}", "NONE", "say it"), ("${EMPTY:?}", "EMPTY", ""), ("x${NONE?}", "NONE", "")])
    func misses(text: String, name: String, message: String) {
        #expect(
            interpolate(text) { Self.values[$0] } == .failure(MissingVariable(name: name, message: message)))
    }
}
