import Config
import Kernel
import Testing

@testable import Supervisor

/// The rule of `start_period` as Docker, which Compose hands it to, has it (moby's daemon/health.go): failures of probes
/// that began within it do not count while there was no success yet; after the first success they do.
@Suite("Probe rules")
struct ProbeRuleTests {
    private let start = MonotonicInstant(nanoseconds: 1_000_000_000)

    private func checked(_ startPeriod: Duration = .seconds(100)) -> (UnitSpec, HealthcheckSpec) {
        var check = HealthcheckSpec(probe: .program(["true"]))
        check.interval = .seconds(10)
        check.timeout = .seconds(5)
        check.retries = 2
        check.startPeriod = startPeriod
        var spec = service("s")
        spec.healthcheck = check
        return (spec, check)
    }

    /// Asks at a time after the start, and answers a moment later; true when the unit has become unhealthy.
    private func probe(
        _ health: inout UnitHealth, _ check: HealthcheckSpec, at seconds: Int, _ outcome: ProbeOutcome,
        after wait: Duration = .zero
    ) -> Bool {
        let asked = start + .seconds(seconds)
        _ = health.ask(check, at: asked)
        return health.take(outcome, check, at: asked + wait)
    }

    @Test("failures within start_period do not count before the first success")
    func early() {
        let (spec, check) = checked()
        var health = UnitHealth()
        health.begin(spec, at: start)
        for second in stride(from: 11, to: 100, by: 5) {
            #expect(!probe(&health, check, at: second, .failed("no")))
        }
        #expect(health.failures == 0 && health.isHealthy == nil && health.lastFailure == "no")
        // Begun within it, answered after it: as in Docker, the begin counts.
        #expect(!probe(&health, check, at: 99, .failed("no"), after: .seconds(4)))
        #expect(health.failures == 0)
        #expect(!probe(&health, check, at: 101, .failed("no")))
        #expect(probe(&health, check, at: 111, .failed("no")))
        #expect(health.isHealthy == false)
    }

    @Test("failures within start_period count after the first success")
    func afterSuccess() {
        let (spec, check) = checked()
        var health = UnitHealth()
        health.begin(spec, at: start)
        #expect(!probe(&health, check, at: 11, .succeeded))
        #expect(!probe(&health, check, at: 21, .failed("no")))
        #expect(health.failures == 1 && health.isHealthy == true)
        #expect(probe(&health, check, at: 31, .failed("no")))
        #expect(health.isHealthy == false)
        #expect(!probe(&health, check, at: 41, .succeeded))
        #expect(health.failures == 0 && health.isHealthy == true && health.lastFailure == nil)
    }

    @Test("a probe that could not be started says nothing about the unit")
    func notAsked() {
        let (spec, check) = checked(.zero)
        var health = UnitHealth()
        health.begin(spec, at: start)
        #expect(!probe(&health, check, at: 11, .failed("no")))
        for second in 21..<60 { #expect(!probe(&health, check, at: second, .notAsked)) }
        #expect(health.failures == 1 && health.lastFailure == "no")
        #expect(probe(&health, check, at: 61, .failed("no")))
    }

    @Test("a stall postpones the watchdog, the time to be ready, probes and the grace of a stop")
    func stalls() {
        var (spec, _) = checked(.zero)
        spec.watchdog = .seconds(2)
        spec.awaitsReadiness = true
        spec.readyTimeout = .seconds(3)
        spec.healthcheck?.timeout = .seconds(1)
        spec.stopGrace = .seconds(4)
        var script = Script([spec])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.advance(.seconds(1))
        _ = script.take()
        script.now = script.now + .seconds(20)
        script.feed(.stalled(.seconds(20)))
        script.advance(.milliseconds(900))
        #expect(script.engine.states[0].pid == 10 && script.engine.health[0].isHealthy == nil)
        guard case .running = script.engine.states[0] else {
            Issue.record("stopped for a time in which nobody listened: \(script.engine.states[0])")
            return
        }
        script.feed(.watchdogFed(0))
        script.feed(.notifiedReady(0))
        script.feed(.stopRequested([0]))
        script.now = script.now + .seconds(20)
        script.feed(.stalled(.seconds(20)))
        script.advance(.milliseconds(3900))
        #expect(!script.take().contains(.kill(0, group: 10)))
        script.advance(.milliseconds(200))
        #expect(script.take().contains(.kill(0, group: 10)))
    }

    @Test("a loop was stalled when it goes on later than it wanted to, or has worked for longer than it should")
    func detector() {
        var detector = StallDetector()
        detector.waits(until: start + .seconds(5), at: start)
        #expect(detector.woke(at: start + .seconds(2)) == nil)
        detector.waits(until: start + .seconds(5), at: start + .seconds(2))
        #expect(detector.woke(at: start + .milliseconds(5900)) == nil)
        detector.waits(until: start + .seconds(10), at: start + .seconds(6))
        #expect(detector.woke(at: start + .seconds(30)) == .seconds(24))
        // Stopped while it worked, not while it waited.
        detector.waits(until: start + .seconds(31), at: start + .seconds(50))
        #expect(detector.woke(at: start + .seconds(50)) == .seconds(20))
        // An event may take any time, and what is overdue is no stall.
        detector.waits(until: nil, at: start + .seconds(50))
        #expect(detector.woke(at: start + .seconds(500)) == nil)
        detector.waits(until: start, at: start + .seconds(500))
        #expect(detector.woke(at: start + .milliseconds(500_001)) == nil)
    }
}
