import Config
import Kernel
import TestSupport
import Testing

@testable import Supervisor

@Suite("Dependencies")
struct DependencyTests {
    @Test("started: it starts once the other has a process")
    func started() {
        var script = Script([task("t", after: [.init("db", .started)]), service("db")])
        script.feed(.begun)
        #expect(script.take() == [.spawn(1)])
        #expect(script.engine.waitsFor(0) == ["db (started)"])
        script.feed(.spawned(1, pid: 10))
        #expect(script.take() == [.spawn(0)])
    }

    @Test("healthy: it starts once the other's healthcheck succeeds, or it said that it is ready")
    func healthy() {
        var checked = service("checked")
        checked.healthcheck = HealthcheckSpec(probe: .port(1))
        var notifying = service("notifying")
        notifying.awaitsReadiness = true
        var script = Script([
            checked, notifying, task("a", after: [.init("checked", .healthy)]),
            task("b", after: [.init("notifying", .healthy), .init("checked", .started)]),
        ])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        #expect(script.take() == [.spawn(0), .spawn(1)])
        script.feed(.notifiedReady(1))
        #expect(script.take() == [.spawn(3)])
        script.advance(.milliseconds(100))
        #expect(script.take() == [.probe(0, number: 1)])
        #expect(!script.engine.isReady(0))
        script.feed(.probed(0, number: 1, .succeeded))
        #expect(script.take() == [.spawn(2)] && script.engine.isReady(0) && script.engine.isHealthy(0))
    }

    @Test("completed: it starts once the other ended with success; after a failure somebody has to start that anew")
    func completed() {
        var script = Script([
            task("build"), task("serve", after: [.init("build", .completedSuccessfully)]),
            task("last", after: [.init("serve", .started)]),
        ])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.exited(pid: 10, .exited(3)))
        #expect(script.take() == [.spawn(0)])
        #expect(script.engine.waitsFor(1) == ["build failed: exit status 3"] && script.engine.isBlocked(1))
        #expect(script.engine.isBlocked(2) && script.engine.waitsFor(2) == ["serve (started)"])
        #expect(
            script.engine.fulfilment(of: .ready, by: 1) == .failed("serve waits in vain: build failed: exit status 3"))
        script.feed(.startRequested(0))
        #expect(!script.engine.isBlocked(1) && !script.engine.isBlocked(2))
        script.feed(.spawned(0, pid: 11))
        script.feed(.exited(pid: 11, .exited(0)))
        #expect(script.take() == [.spawn(0), .spawn(1)])
    }

    @Test("who depends on what is skipped is skipped, with the reason, and so on")
    func skipped() {
        var docker = service("docker")
        docker.skipped = "dockerd not found"
        var script = Script([
            task("c", after: [.init("b", .started)]), service("b", after: [.init("docker", .started)]), docker,
        ])
        script.feed(.begun)
        #expect(
            script.takeReports() == [
                "skipped: dockerd not found", "skipped: docker is skipped: dockerd not found",
                "skipped: b is skipped: docker is skipped: dockerd not found",
            ])
    }

    @Test("without `required` what is skipped or has failed holds nobody up")
    func notRequired() {
        var absent = service("absent")
        absent.skipped = "not found"
        var script = Script([
            absent, task("fails"),
            task(
                "t",
                after: [
                    .init("absent", .healthy, isRequired: false),
                    .init("fails", .completedSuccessfully, isRequired: false),
                ]),
        ])
        script.feed(.begun)
        #expect(script.take() == [.spawn(1)])
        script.feed(.spawned(1, pid: 11))
        script.feed(.exited(pid: 11, .exited(1)))
        #expect(script.take() == [.spawn(2)])
    }

    @Test("a start starts what it needs, and what that needs")
    func startsWhatItNeeds() {
        var script = Script([
            service("db"), service("api", after: [.init("db", .healthy)]), task("web", after: [.init("api", .started)]),
            service("other"),
        ])
        script.feed(.begun)
        script.feed(.stopRequested([0, 1, 2, 3]))
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(3, pid: 13))
        for pid in [Int32(10), 13] { script.feed(.exited(pid: pid, .exited(0))) }
        _ = script.take()
        script.feed(.startRequested(2))
        #expect(script.take() == [.spawn(0)])
        script.feed(.spawned(0, pid: 20))
        script.feed(.spawned(1, pid: 21))
        #expect(script.take() == [.spawn(1), .spawn(2)])
        #expect(script.engine.states[3].pid == nil)
    }

    @Test("a stop of several goes against the dependencies, another supervisor or not")
    func stopsInOrder() {
        var script = Script([
            service("db"), service("api", after: [.init("db", .started)]), task("web", after: [.init("api", .started)]),
            task("free", after: [.init("db", .completedSuccessfully)]),
        ])
        script.feed(.begun)
        for id in 0..<3 { script.feed(.spawned(id, pid: Int32(10 + id))) }
        _ = script.take()
        #expect(script.engine.dependents(of: [0]) == [1, 2])
        #expect(script.engine.dependents(of: [2]) == [])
        script.feed(.stopRequested([0, 1, 2]))
        #expect(script.take() == [.signal(pid: 12, .terminate)])
        script.feed(.exited(pid: 12, .exited(0)))
        #expect(script.take() == [.kill(2, group: 12), .signal(pid: 11, .terminate)])
        script.takeOver()
        script.feed(.exited(pid: 11, .exited(0)))
        #expect(script.take() == [.kill(1, group: 11), .signal(pid: 10, .terminate)])
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.engine.states[0] == .ended(.exited(.exited(0)), byRequest: true))
    }

    @Test("a chain of a thousand units starts in order")
    func thousand() {
        let specs = (0..<1000).map { index in
            service("s\(index)", after: index == 0 ? [] : [.init("s\(index - 1)", .started)])
        }
        var script = Script(specs.reversed())
        script.feed(.begun)
        for index in 0..<1000 {
            #expect(script.take() == [.spawn(999 - index)])
            script.feed(.spawned(999 - index, pid: Int32(index + 10)))
        }
        script.feed(.shutdownRequested)
        for index in (0..<1000).reversed() {
            #expect(script.take().filter { $0 == .signal(pid: Int32(index + 10), .terminate) }.count == 1)
            script.feed(.exited(pid: Int32(index + 10), .exited(0)))
        }
        #expect(script.take().contains(.finish(0)))
    }

    @Test("a restart of one does not touch the other, nor ask for its conditions again")
    func restarts() {
        var script = Script([service("db"), service("web", after: [.init("db", .started)])])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.feed(.exited(pid: 10, .exited(1)))
        script.feed(.exited(pid: 11, .exited(1)))
        _ = script.take()
        script.advance(.seconds(1))
        #expect(script.take() == [.spawn(0), .spawn(1)])
    }
}

@Suite("Shutdown order")
struct ShutdownTests {
    @Test("against the dependencies, and services after the tasks that might use them")
    func order() {
        var script = Script([
            service("db"), service("web", after: [.init("db", .started)]), task("t"),
            task("migrate"), service("late", after: [.init("migrate", .started)]),
        ])
        script.feed(.begun)
        for id in [0, 1, 2, 3, 4] { script.feed(.spawned(id, pid: Int32(10 + id))) }
        _ = script.take()
        script.feed(.shutdownRequested)
        // late waits for t, as all services; migrate waits for late, which needs it.
        #expect(script.take() == [.signal(pid: 12, .terminate)])
        script.feed(.exited(pid: 12, .exited(0)))
        #expect(script.take() == [.kill(2, group: 12), .signal(pid: 14, .terminate), .signal(pid: 11, .terminate)])
        script.feed(.exited(pid: 14, .exited(0)))
        #expect(script.take() == [.kill(4, group: 14), .signal(pid: 13, .terminate)])
        script.feed(.exited(pid: 11, .exited(0)))
        #expect(script.take() == [.kill(1, group: 11), .signal(pid: 10, .terminate)])
        script.feed(.exited(pid: 13, .exited(0)))
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.take() == [.kill(3, group: 13), .kill(0, group: 10), .finish(0)])
    }

    @Test("the budget ends those that hold others up")
    func budget() {
        var slow = task("slow")
        slow.stopGrace = .seconds(60)
        var script = Script([service("db"), slow], budget: .seconds(2))
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.feed(.shutdownRequested)
        _ = script.take()
        script.advance(.seconds(2))
        #expect(script.take() == [.kill(0, group: 10), .kill(1, group: 11)])
        script.advance(.seconds(1))
        #expect(script.take().last == .finish(0))
    }
}

@Suite("Health")
struct HealthTests {
    private func checked(_ restart: RestartPolicy = .always, _ change: (inout HealthcheckSpec) -> Void = { _ in })
        -> UnitSpec
    {
        var spec = service("s", restart)
        var check = HealthcheckSpec(probe: .port(1))
        check.interval = .seconds(2)
        check.timeout = .seconds(1)
        change(&check)
        spec.healthcheck = check
        return spec
    }

    private func running(_ spec: UnitSpec) -> Script {
        var script = Script([spec])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        _ = script.take()
        return script
    }

    /// Advances to the next probe and answers it; the time that passed.
    private func probe(_ script: inout Script, _ succeeded: Bool) -> Duration? {
        guard let due = script.engine.nextDeadline else { return nil }
        let waited = due - script.now
        script.advance(waited)
        for action in script.take() {
            if case .probe(let id, let number) = action {
                script.feed(.probed(id, number: number, succeeded ? .succeeded : .failed("exit status 1")))
            }
        }
        return waited
    }

    @Test("early probes come soon, at twice the distance each, and their failures do not count")
    func early() {
        var script = running(checked())
        #expect((0..<5).map { _ in probe(&script, false) } == [100, 200, 400, 800, 1600].map { .milliseconds($0) })
        #expect(script.engine.health[0].failures == 1 && script.engine.health[0].isHealthy == nil)
        #expect(probe(&script, true) == .seconds(2))
        #expect(script.engine.isHealthy(0))
    }

    @Test("after a success they come once an interval, and so many failures in a row are one too many")
    func unhealthy() {
        var script = running(checked())
        _ = probe(&script, true)
        #expect(probe(&script, false) == .seconds(2) && probe(&script, false) == .seconds(2))
        #expect(script.engine.isHealthy(0))
        _ = probe(&script, true)
        for _ in 0..<2 { _ = probe(&script, false) }
        #expect(script.engine.isHealthy(0) && script.take() == [])
        _ = probe(&script, false)
        #expect(!script.engine.isHealthy(0))
        #expect(script.take() == [.signal(pid: 10, .terminate)])
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.takeReports().last?.hasPrefix("unhealthy: exit status 1: next start in 5") == true)
        script.advance(.seconds(1))
        #expect(script.take() == [.spawn(0)])
        script.feed(.spawned(0, pid: 11))
        #expect(!script.engine.isReady(0), "what was found belongs to the process before")
    }

    @Test("always unhealthy slows down, and on-failure gives up")
    func givesUp() {
        var script = running(checked(.onFailure(limit: 1)) { $0.retries = 1 })
        for pid in Int32(11)...12 {
            _ = probe(&script, true)
            _ = probe(&script, false)
            script.feed(.exited(pid: pid - 1, .exited(0)))
            script.advance(.seconds(60))
            script.feed(.spawned(0, pid: pid))
        }
        #expect(script.takeReports().contains("unhealthy: exit status 1: given up after 1 failures in a row"))
    }

    @Test("without a restart policy it stays, and is said to be unhealthy and healthy again")
    func stays() {
        var script = running(checked(.no) { $0.retries = 1 })
        _ = probe(&script, true)
        _ = probe(&script, false)
        #expect(script.engine.states[0] == .running(pid: 10, since: MonotonicInstant(nanoseconds: 1_000_000_000)))
        #expect(script.takeReports() == ["unhealthy: a probe failed: exit status 1"])
        _ = probe(&script, true)
        #expect(script.engine.isHealthy(0))
    }

    @Test("failures within start_period do not count, and probes come at start_interval")
    func startPeriod() {
        var script = running(
            checked {
                $0.startPeriod = .seconds(60); $0.startInterval = .milliseconds(300)
            })
        for _ in 0..<20 { _ = probe(&script, false) }
        #expect(probe(&script, false) == .milliseconds(300))
        #expect(script.engine.health[0].failures == 0 && script.engine.health[0].isHealthy == nil)
    }

    @Test("a probe that takes too long failed, and its answer says nothing any more")
    func timeout() {
        var script = running(
            checked(.no) {
                $0.retries = 1; $0.interval = .milliseconds(50)
            })
        script.advance(.milliseconds(50))
        #expect(script.take() == [.probe(0, number: 1)])
        script.advance(.seconds(1))
        #expect(script.take() == [.cancelProbe(0, number: 1)])
        #expect(script.engine.health[0].isHealthy == false)
        script.feed(.probed(0, number: 1, .succeeded))
        #expect(script.engine.health[0].isHealthy == false)
    }

    @Test("another healthcheck ends the probe under way, and the process stays ready")
    func adjusted() {
        var spec = checked()
        spec.awaitsReadiness = true
        var script = running(spec)
        script.feed(.notifiedReady(0))
        script.advance(.milliseconds(100))
        _ = script.take()
        spec.healthcheck?.interval = .seconds(5)
        script.feed(.adjusted(0, spec))
        #expect(script.take() == [.cancelProbe(0, number: 1)] && script.engine.isReady(0))
        script.advance(.milliseconds(100))
        #expect(script.take() == [.probe(0, number: 2)])
    }

    @Test("a probe ends with its unit")
    func cancelled() {
        var script = running(checked())
        script.advance(.milliseconds(100))
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.take() == [.probe(0, number: 1), .kill(0, group: 10), .cancelProbe(0, number: 1)])
    }
}

@Suite("Socket activation")
struct ActivationTests {
    private func listening(_ name: String) -> UnitSpec {
        var spec = service(name)
        spec.isSocketActivated = true
        return spec
    }

    @Test("it starts with the first connection, and later by its policy")
    func connection() {
        var script = Script([listening("s")])
        script.feed(.begun)
        #expect(script.take() == [] && script.engine.states[0] == .listening)
        script.feed(.connectionArrived(0))
        script.feed(.connectionArrived(0))
        #expect(script.take() == [.spawn(0)])
        script.feed(.spawned(0, pid: 10))
        script.feed(.exited(pid: 10, .signalled(.kill, coreDumped: false)))
        script.advance(.seconds(1))
        #expect(script.take() == [.kill(0, group: 10), .spawn(0)])
    }

    @Test("who depends on it starts it")
    func dependents() {
        var script = Script([task("t", after: [.init("s", .started)]), listening("s")])
        script.feed(.begun)
        #expect(script.take() == [.spawn(1)])
        script.feed(.spawned(1, pid: 10))
        #expect(script.take() == [.spawn(0)])
    }
}

@Suite("Readiness")
struct ReadinessTests {
    @Test("sd_notify's datagrams")
    func notifications() {
        #expect(
            Notification(Array("STATUS=loading\nREADY=1\nX=y".utf8)[...])
                == Notification(Array("READY=1\nSTATUS=loading".utf8)[...]))
        #expect(Notification(Array("MAINPID=42\nREADY=1".utf8)[...]).mainProcess == 42)
        for text in ["MAINPID=", "MAINPID=1", "MAINPID=-5", "MAINPID=99999999999", "MAINPID=x"] {
            #expect(Notification(Array(text.utf8)[...]).mainProcess == nil)
        }
        #expect(!Notification(Array("READY=0".utf8)[...]).isReady && Notification([][...]).status == nil)
    }

    @Test("lines of a log")
    func lines() throws {
        let matcher = try #require(LineMatcher("^ready( to accept)? [0-9]+"))
        #expect(
            matcher.matches(Array("ready to accept 5 things".utf8)[...]) && matcher.matches(Array("ready 1".utf8)[...]))
        #expect(!matcher.matches(Array("not ready 1".utf8)[...]) && !matcher.matches([0, 114][...]))
        #expect(LineMatcher("(") == nil)
    }

    @Test("where an http probe goes")
    func targets() {
        let plain = HTTPTarget("http://localhost/a?b#c")
        #expect(plain?.host == "localhost" && plain?.port == 80 && plain?.path == "/a?b")
        let six = HTTPTarget("http://[::1]:8080")
        #expect(six?.host == "::1" && six?.port == 8080 && six?.path == "/" && six?.authority == "[::1]:8080")
        for bad in ["https://a", "http://", "http://a:b", "http://[::1", "http://[::1]x", "http://:80"] {
            #expect(HTTPTarget(bad) == nil, "\(bad)")
        }
    }
}
