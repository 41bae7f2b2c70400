import Config
import Kernel
import Testing

@testable import Supervisor

@Suite("Stops")
struct StopTests {
    private func running(_ specs: [UnitSpec]) -> Script {
        var script = Script(specs)
        script.feed(.begun)
        for id in specs.indices where script.engine.states[id] == .starting {
            script.feed(.spawned(id, pid: Int32(10 + id)))
        }
        _ = script.take()
        return script
    }

    @Test("kill_mode mixed signals the main process, and kills the rest as soon as that has ended")
    func mixed() {
        var spec = service("s", .no)
        spec.stopsMainOnly = true
        var script = running([spec])
        script.leaving = [0]
        script.feed(.stopRequested([0]))
        #expect(script.take() == [.signalMain(pid: 10, .terminate)])
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.take() == [.kill(0, group: 10)])
        #expect(script.engine.states[0] == .ended(.exited(.exited(0)), byRequest: true))
        spec.hasPreStop = true
        script = running([spec])
        script.feed(.stopRequested([0]))
        script.feed(.preStopEnded(0))
        #expect(script.take() == [.preStop(0), .signalMain(pid: 10, .terminate)])
    }

    @Test("a stop has taken effect when the group of the unit has ended, a start when the unit runs and is ready")
    func effects() {
        var ready = service("ready", .no)
        ready.awaitsReadiness = true
        var script = running([service("plain", .no), ready])
        script.leaving = [0]
        #expect(script.engine.fulfilment(of: .started, on: [0]) == .met)
        #expect(script.engine.fulfilment(of: .started, on: [0, 1]) == .open)
        script.feed(.notifiedReady(1))
        #expect(script.engine.fulfilment(of: .started, on: [0, 1]) == .met)
        script.feed(.stopRequested([0]))
        for effect in [Effect.stopped, .applied, .started] {
            #expect(script.engine.fulfilment(of: effect, on: [0]) == .open)
        }
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.engine.fulfilment(of: .stopped, on: [0]) == .open)
        script.feed(.groupEnded(0))
        #expect(script.engine.fulfilment(of: .stopped, on: [0]) == .met)
        #expect(script.engine.fulfilment(of: .started, on: [0]) == .failed("plain was stopped"))
        script.feed(.startRequested(0))
        script.feed(.spawnFailed(0, reason: "cannot find x"))
        #expect(script.engine.fulfilment(of: .started, on: [0]) == .failed("plain: cannot find x"))
    }

    @Test("the end of an essential unit is announced, and never ends the workspace with 0 when it was a failure")
    func essential() {
        var spec = service("db", .onFailure(limit: 1))
        spec.isEssential = true
        spec.healthcheck = HealthcheckSpec(probe: .program(["false"]))
        spec.healthcheck?.retries = 1
        spec.healthcheck?.interval = .seconds(1)
        var script = running([spec])
        for pid in Int32(10)..<12 {
            script.advance(.seconds(2))
            guard
                let number = script.take().compactMap({ if case .probe(_, let number) = $0 { number } else { nil } })
                    .last
            else {
                Issue.record("not probed")
                return
            }
            script.feed(.probed(0, number: number, .failed("exit status 3")))
            script.feed(.exited(pid: pid, .exited(0)))
            if pid == 10 {
                script.advance(.seconds(1))
                script.feed(.spawned(0, pid: 11))
                _ = script.takeReports()
            }
        }
        #expect(script.engine.isStopping)
        #expect(
            script.actions.contains(
                .announce(
                    "db is essential and has ended (unhealthy: exit status 3): the workspace ends with exit code 1")))
        #expect(script.actions.contains(.finish(1)))
    }

    @Test("a shutdown says what it waits for after a second, and then less and less often")
    func news() {
        var slow = task("slow")
        slow.stopGrace = .seconds(60)
        var script = Script([slow, service("db")], budget: .seconds(100))
        script.feed(.begun)
        script.feed(.spawned(1, pid: 11))
        script.feed(.spawned(0, pid: 10))
        script.feed(.shutdownRequested)
        var said: [(Int, String)] = []
        for second in 1...40 {
            _ = script.take()
            script.advance(.seconds(1))
            said += script.takeReports().map { (second, $0) }
        }
        #expect(said.map(\.0) == [1, 3, 7, 15, 31])
        #expect(said.first?.1 == "the stop waits for slow (59.0 s left), db")
    }
}
