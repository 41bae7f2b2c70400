import Kernel
import Testing

@testable import Ring

@Suite("Survival")
struct SurvivalTests {
    private func instant(_ milliseconds: Int64) -> MonotonicInstant {
        MonotonicInstant(nanoseconds: milliseconds * 1_000_000)
    }

    @Test("the first supervisor has nothing to lose")
    func first() {
        var restart = SupervisorRestart()
        restart.started(at: instant(0))
        #expect(restart.ended(.exited(70), at: instant(5)) == .giveUp)
    }

    @Test("a killed supervisor is followed at once, however often")
    func killed() {
        var restart = SupervisorRestart()
        for round in 0..<500 {
            restart.started(at: instant(Int64(round)))
            restart.becameReady()
            #expect(
                restart.ended(.signalled(.kill, coreDumped: false), at: instant(Int64(round))) == .start(after: .zero))
        }
        // Killed before it took over: soon, without a spin.
        for round in 0..<50 {
            restart.started(at: instant(Int64(round)))
            guard
                case .start(let delay) = restart.ended(.signalled(.kill, coreDumped: false), at: instant(Int64(round)))
            else {
                Issue.record("given up")
                return
            }
            #expect(delay <= .milliseconds(100) && delay > .zero)
        }
    }

    @Test("one that fails by itself is followed later each time, and not for ever")
    func failing() {
        var restart = SupervisorRestart()
        restart.started(at: instant(0))
        restart.becameReady()
        var delays: [Duration] = []
        for _ in 0..<20 {
            guard
                case .start(let delay) = restart.ended(
                    .signalled(Signal(rawValue: 4), coreDumped: false), at: instant(1))
            else { break }
            delays.append(delay)
            restart.started(at: instant(1))
        }
        #expect(delays.count == SupervisorRestart.limit - 1)
        #expect(delays == delays.sorted() && delays[1] > delays[0])
    }

    @Test("one that lacks processes, descriptors or memory is retried without an end")
    func shortage() {
        var restart = SupervisorRestart()
        restart.started(at: instant(0))
        restart.becameReady()
        var delays: [Duration] = []
        for _ in 0..<100 {
            guard case .start(let delay) = restart.ended(.exited(ExitStatus.temporaryFailure), at: instant(1)) else {
                Issue.record("given up")
                return
            }
            delays.append(delay)
            restart.started(at: instant(1))
        }
        #expect(delays == delays.sorted() && delays[1] > delays[0])
        #expect(delays.last == SupervisorRestart.longestDelay)
    }

    @Test("one that ran for a while starts with a clean sheet")
    func forgotten() {
        var restart = SupervisorRestart()
        restart.started(at: instant(0))
        restart.becameReady()
        for round in 0..<20 {
            let begun = Int64(round) * 20_000
            restart.started(at: instant(begun))
            restart.becameReady()
            #expect(restart.ended(.exited(70), at: instant(begun + 15_000)) == .start(after: .milliseconds(10)))
        }
    }

    @Test("descriptors are kept by key, and closed when they are not wanted any more")
    func store() throws {
        var store = DescriptorStore()
        func isOpen(_ number: Int32) -> Bool { Files.linkTarget("/proc/self/fd/\(number)") != nil }
        func descriptor() throws -> Int32 {
            let (reading, _) = try makePipe()
            let borrowed = OwnedDescriptor(owning: reading.number)
            let copy = try borrowed.duplicate()
            _ = borrowed.release()
            withExtendedLifetime(reading) {}
            return copy.release()
        }
        let numbers = try (0..<4).map { _ in try descriptor() }
        for (index, number) in numbers.enumerated() { store.keep(UInt64(index), number) }
        store.discard(1)
        #expect(store.count == 3)
        let other = try descriptor()
        store.keep(2, other)
        #expect(store.count == 3)
        let entries = (0..<store.count).map { store.entry($0) }
        #expect(Set(entries.map(\.key)) == [0, 2, 3])
        #expect(entries.first { $0.key == 2 }?.number == other)
        #expect(entries.allSatisfy { isOpen($0.number) })
        store.discard(77)
        #expect(store.count == 3)
    }

    @Test(
        "a message of the keeper's reads back as it was sent",
        arguments: [
            .keep(.max), .discard(0), .ready, .finished, .kept(1 << 40), .allKept, .ended(pid: 7, .exited(255)),
            .ended(pid: 8, .signalled(.kill, coreDumped: false)), .ended(pid: 8, .signalled(.quit, coreDumped: true)),
            .stopped(pid: 9), .signal(.terminate),
        ] as [KeeperMessage])
    func messages(message: KeeperMessage) throws {
        let (a, b) = try makeSocketPair(.sequencedPacket)
        try a.setNonblocking(true)
        try b.setNonblocking(true)
        #expect(message.send(over: a.number))
        #expect(KeeperMessage.peek(from: b.number) == message)
        guard case .message(let read, -1) = KeeperMessage.receive(from: b.number) else {
            Issue.record("no message")
            return
        }
        #expect(read == message)
        #expect(KeeperMessage.peek(from: b.number) == nil)
    }
}
