import Control
import Kernel
import Testing

@testable import Supervisor

@Suite("Events")
struct EventTests {
    /// What is told while a script runs: the events between the records before and after each step.
    struct Listener {
        var script: Script
        var records: [UnitRecord?] = []

        init(_ specs: [UnitSpec]) { script = Script(specs) }

        mutating func after(_ step: (inout Script) -> Void) -> [WorkspaceEvent] {
            step(&script)
            let new = script.engine.specs.indices.map { UnitRecord(script.engine, $0, statusText: "") }
            defer { records = new }
            return new.enumerated().flatMap { index, record in
                record.events(since: index < records.count ? records[index] : nil)
            }
        }

        mutating func names(after step: (inout Script) -> Void) -> [WorkspaceEvent.Name] { after(step).map(\.event) }
    }

    @Test("a service that crashes: its end, its delay, its next start")
    func crash() {
        var listener = Listener([service("a")])
        #expect(listener.names { $0.feed(.begun) } == [])
        #expect(listener.names { $0.feed(.spawned(0, pid: 10)) } == [.started, .ready])
        let end = listener.after { $0.feed(.exited(pid: 10, .signalled(.kill, coreDumped: false))) }
        #expect(end.map(\.event) == [.exited, .backingOff])
        #expect(end[0].pid == 10 && end[0].exitCode == 137 && end[0].reason == "SIGKILL")
        #expect(try! #require(end[1].delaySeconds) >= 0.5)
        #expect(listener.names { $0.advance(.milliseconds(100)) } == [])
        #expect(
            listener.names {
                $0.advance(.seconds(1))
                $0.feed(.spawned(0, pid: 11))
            } == [.started, .ready])
    }

    @Test("a restart within one step is an end and a start")
    func restart() {
        var listener = Listener([service("a")])
        _ = listener.after {
            $0.feed(.begun)
            $0.feed(.spawned(0, pid: 10))
        }
        #expect(listener.names { $0.feed(.restartRequested(0)) } == [.stopping])
        let events = listener.after {
            $0.feed(.exited(pid: 10, .exited(0)))
            $0.feed(.spawned(0, pid: 11))
        }
        #expect(events.map(\.event) == [.exited, .started, .ready])
        #expect(events.map(\.pid) == [10, 11, nil])
    }

    @Test("what could not be started is told each time")
    func notStarted() {
        var listener = Listener([service("a")])
        #expect(
            listener.names {
                $0.feed(.begun)
                $0.feed(.spawnFailed(0, reason: "no such file"))
            } == [.notStarted, .backingOff])
        #expect(
            listener.names {
                $0.advance(.seconds(1))
                $0.feed(.spawnFailed(0, reason: "no such file"))
            } == [.notStarted, .backingOff])
    }

    @Test("what could not be started is told of each try, and not of what only forgives it")
    func notStartedByRequest() {
        var listener = Listener([service("a", .no), service("b")])
        _ = listener.after {
            $0.feed(.begun)
            $0.feed(.spawnFailed(0, reason: "no"))
            $0.feed(.spawnFailed(1, reason: "no"))
        }
        #expect(
            listener.names {
                $0.feed(.startRequested(0))
                $0.feed(.spawnFailed(0, reason: "no"))
            } == [.notStarted])
        #expect(
            listener.names {
                $0.feed(.restartRequested(1))
                $0.feed(.spawned(1, pid: 11))
            } == [.started, .ready])
    }

    @Test("ends: with success, without, on request, never begun")
    func ends() {
        var listener = Listener([
            task("a"), task("b"), task("c"), task("d", after: [.init("b", .completedSuccessfully)]),
        ])
        _ = listener.after {
            $0.feed(.begun)
            for id in 0..<3 { $0.feed(.spawned(id, pid: Int32(10 + id))) }
        }
        #expect(listener.names { $0.feed(.exited(pid: 10, .exited(0))) } == [.exited, .completed])
        #expect(listener.names { $0.feed(.exited(pid: 11, .exited(1))) } == [.exited, .failed])
        #expect(listener.names { $0.feed(.stopRequested([2])) } == [.stopping])
        #expect(
            listener.names { $0.feed(.exited(pid: 12, .signalled(.terminate, coreDumped: false))) } == [
                .exited, .stopped,
            ])
        let last = listener.after { $0.feed(.shutdownRequested) }
        #expect(last.map(\.event) == [.skipped] && last[0].reason == "the workspace stopped first")
    }

    @Test("readiness and health, and what is told again of the next process")
    func health() {
        var spec = service("a")
        spec.awaitsReadiness = true
        var listener = Listener([spec])
        #expect(
            listener.names {
                $0.feed(.begun)
                $0.feed(.spawned(0, pid: 10))
            } == [.started])
        #expect(listener.names { $0.feed(.notifiedReady(0)) } == [.ready])
        #expect(listener.names { $0.feed(.notifiedReady(0)) } == [])
        _ = listener.after { $0.feed(.restartRequested(0)) }
        #expect(
            listener.names {
                $0.feed(.exited(pid: 10, .exited(0)))
                $0.feed(.spawned(0, pid: 11))
            } == [.exited, .started])
    }

    @Test("a daemon in its parent's place is the same unit with another process")
    func replaced() {
        var listener = Listener([service("a")])
        _ = listener.after {
            $0.feed(.begun)
            $0.feed(.spawned(0, pid: 10))
        }
        let events = listener.after { $0.feed(.replaced(0, pid: 11)) }
        #expect(events.map(\.event) == [.replaced] && events[0].pid == 11)
        let end = listener.after { $0.feed(.exited(pid: 11, .exited(0))) }
        #expect(end.map(\.event) == [.exited, .backingOff] && end[0].pid == 11)
    }

    @Test(
        "one line each",
        arguments: [
            (
                WorkspaceEvent(.backingOff, kind: "service", unit: "web"),
                "service web backing off (next start in 0.5 s)"
            ),
            (WorkspaceEvent(.takenOver, kind: "workspace"), "workspace taken over (next start in 0.5 s)"),
        ])
    func sentence(event: WorkspaceEvent, text: String) {
        var event = event
        event.delaySeconds = 0.5
        #expect(event.sentence == text)
    }
}

@Suite("UnitTraffic")
struct UnitTrafficTests {
    @Test("a sum never goes down, and a socket counts once")
    func sums() {
        var traffic = UnitTraffic()
        traffic.count(SocketTraffic(inode: 1, received: 100, sent: 10), for: 0)
        traffic.count(SocketTraffic(inode: 2, received: 5, sent: 0), for: 1)
        traffic.count(SocketTraffic(inode: 1, received: 150, sent: 10), for: 0)
        #expect(traffic.totals[0]?.received == 150 && traffic.totals[0]?.sent == 10)
        // Gone; then its inode is another one's.
        traffic.forget(allBut: [2])
        traffic.count(SocketTraffic(inode: 1, received: 30, sent: 1), for: 0)
        #expect(traffic.totals[0]?.received == 180)
        traffic.count(SocketTraffic(inode: 1, received: 3, sent: 1), for: 0)
        #expect(traffic.totals[0]?.received == 183)
        #expect(traffic.totals[1]?.received == 5)
    }
}
