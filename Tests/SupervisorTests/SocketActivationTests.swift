import Config
import Kernel
import Testing

@testable import Supervisor

@Suite("Socket activation")
struct SocketActivationTests {
    private func listening(_ restart: RestartPolicy = .no, essential: Bool = false) -> Script {
        var unit = service("s", restart)
        unit.isSocketActivated = true
        unit.isEssential = essential
        var script = Script([unit])
        script.feed(.begun)
        return script
    }

    /// A connection starts the unit, whose process ends at once.
    private func serve(_ script: inout Script, pid: Int32, _ code: UInt8) {
        script.feed(.connectionArrived(0))
        script.feed(.spawned(0, pid: pid))
        script.feed(.exited(pid: pid, .exited(code)))
    }

    @Test("a process that ended leaves the unit listening, with success or without", arguments: [0, 3] as [UInt8])
    func again(code: UInt8) {
        var script = listening()
        serve(&script, pid: 10, code)
        #expect(script.engine.states[0] == .listening && script.engine.lastEndings[0]?.code == code)
        #expect(script.engine.hasSockets(0))
        script.feed(.connectionArrived(0))
        #expect(script.take().last == .spawn(0))
        script.takeOver()
        #expect(script.engine.hasSockets(0))
    }

    @Test("a unit has no sockets once it was stopped, could not be started, or its policy gave up")
    func forGood() {
        var stopped = listening()
        stopped.feed(.stopRequested([0]))
        #expect(!stopped.engine.hasSockets(0))
        stopped.feed(.startRequested(0))
        #expect(stopped.engine.hasSockets(0))
        var missing = listening()
        missing.feed(.connectionArrived(0))
        missing.feed(.spawnFailed(0, reason: "no such file"))
        #expect(!missing.engine.hasSockets(0))
        var givenUp = listening(.onFailure(limit: 1))
        serve(&givenUp, pid: 10, 1)
        #expect(givenUp.engine.hasSockets(0))
        givenUp.advance(.seconds(1))
        givenUp.feed(.spawned(0, pid: 11))
        givenUp.feed(.exited(pid: 11, .exited(1)))
        #expect(!givenUp.engine.hasSockets(0))
        var essential = listening(essential: true)
        serve(&essential, pid: 10, 1)
        #expect(essential.engine.isStopping && !essential.engine.hasSockets(0))
    }

    @Test("twenty starts within two seconds are allowed, and the next window counts from zero")
    func limit() {
        var script = listening()
        for round in 0..<3 {
            for index in 0..<Int32(ActivationLimit.burst) { serve(&script, pid: 100 + index, 0) }
            #expect(script.engine.states[0] == .listening, "round \(round)")
            script.advance(ActivationLimit.interval)
        }
        for index in 0..<Int32(ActivationLimit.burst) { serve(&script, pid: 200 + index, 0) }
        script.feed(.connectionArrived(0))
        #expect(script.engine.states[0] == .ended(.activatedTooOften, byRequest: false))
        #expect(Ending(text: Ending.activatedTooOften.text) == .activatedTooOften)
    }

    @Test("a start that fails for lack of resources is retried without a limit and without counting as a failure")
    func shortage() {
        var script = Script([service("s", .onFailure(limit: 1)), task("t")])
        script.feed(.begun)
        var last = Duration.zero
        for _ in 0..<20 {
            for id in 0..<2 {
                script.feed(.spawnFailed(id, reason: "cannot fork", isTemporary: true))
                guard case .backingOff(_, let delay, _) = script.engine.states[id] else {
                    Issue.record("not retried")
                    return
                }
                last = max(last, delay)
            }
            script.advance(.seconds(40))
        }
        #expect(last >= Backoff.cap)
        script.feed(.spawned(0, pid: 10))
        script.feed(.exited(pid: 10, .exited(1)))
        guard case .backingOff(_, let delay, _) = script.engine.states[0] else {
            Issue.record("given up")
            return
        }
        #expect(delay <= Backoff.first * 1.1)
    }
}
