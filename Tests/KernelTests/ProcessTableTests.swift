import Testing

@testable import Kernel

@Suite("ProcessTable")
struct ProcessTableTests {
    private let numbers = "S 7 8 9 34817 8 4194560 100 0 0 0 150 50 25 25 20 0 1 0 12345 4096000 3 18446744073709551615"

    @Test("a name may hold anything", arguments: ["bash", "a b", "x) S 1 1 1", "((", ")", ""])
    func names(name: String) throws {
        let entry = try #require(ProcessEntry(stat: "42 (\(name)) \(numbers) 0 0\n"))
        #expect(entry.pid == 42 && entry.name == name)
        #expect(entry.parent == 7 && entry.group == 8 && entry.session == 9)
        #expect(entry.processorTime == .milliseconds(2500))
        #expect(entry.residentSize % 3 == 0 && entry.residentSize >= 3 * 4096)
    }

    @Test("what is cut off anywhere is none, and never a trap")
    func truncated() {
        let text = "42 (bash) \(numbers)"
        let whole = text.dropLast(numbers.split(separator: " ").last?.count ?? 0)
        for length in 0..<whole.count { _ = ProcessEntry(stat: String(text.prefix(length))) }
        for bad in ["", "42", "42 (x", "x (y) \(numbers)", ") (", "42 (x) S a b c"] {
            #expect(ProcessEntry(stat: bad) == nil)
        }
        // Numbers that no kernel prints.
        let huge = numbers.split(separator: " ").map { $0 == "S" ? "S" : "9223372036854775807" }.joined(separator: " ")
        #expect(ProcessEntry(stat: "42 (x) \(huge)") == nil)
    }

    @Test("this process is in the table, with its parent")
    func own() throws {
        let own = try #require(ProcessEntry.all().first { $0.pid == CurrentProcess.id })
        #expect(own.parent == CurrentProcess.parent && own.residentSize > 0)
        #expect(ProcessEntry(0) == nil)
    }
}

@Suite("MachineLimits")
struct MachineLimitsTests {
    @Test("the limits of the machine are more than nothing")
    func limits() {
        let limits = MachineLimits.current
        #expect(limits.processors >= 1 && limits.memoryBytes > 1 << 20)
    }
}
