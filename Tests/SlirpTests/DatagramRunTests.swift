import Testing

@testable import Kernel
@testable import Slirp

/// Datagrams that travel together outwards: each keeps its own size.
@Suite("Runs of datagrams")
struct DatagramRunTests {
    private let server = Endpoint(.loopback4, 7)

    private func sizes(_ sizes: [Int]) -> [Int] {
        var run = DatagramRun(index: 1, target: server, size: sizes[0])
        return sizes.dropFirst().map { run.takes($0, index: 1, target: server) ? 1 : 0 }
    }

    @Test("all of a run have one size but for the last, which may be shorter")
    func lengths() {
        #expect(sizes([700, 700, 700]) == [1, 1])
        #expect(sizes([700, 700, 600, 700]) == [1, 1, 0])
        #expect(sizes([700, 600, 600]) == [1, 0])
        #expect(sizes([700, 701]) == [0])
        #expect(sizes([700, 0]) == [0])
        #expect(sizes([0, 0]) == [0])
        #expect(sizes([Int](repeating: 10, count: 61)) == [Int](repeating: 1, count: 59) + [0])
        #expect(sizes([Int](repeating: 20_000, count: 4)) == [1, 1, 0])
    }

    @Test("a run is of one flow and one target")
    func sameFlow() {
        var run = DatagramRun(index: 1, target: server, size: 10)
        let ofAnother = run.takes(10, index: 2, target: server)
        let elsewhere = run.takes(10, index: 1, target: Endpoint(.loopback4, 8))
        #expect(!ofAnother && !elsewhere)
        let takes = run.takes(10, index: 1, target: server)
        #expect(takes && run.count == 2 && run.length == 20)
    }
}
