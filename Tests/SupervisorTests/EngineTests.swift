import Config
import Kernel
import TestSupport
import Testing

@testable import Supervisor

@Suite("Engine")
struct EngineTests {
    @Test("services start before tasks, skipped units not at all")
    func startOrder() {
        var skipped = service("skipped")
        skipped.skipped = "nothing to run"
        var script = Script([UnitSpec(name: "task", kind: .task), service("db"), skipped])
        script.feed(.begun)
        #expect(script.take() == [.spawn(1), .spawn(0)])
        #expect(script.engine.states[2] == .skipped("nothing to run"))
    }

    @Test("a failing service backs off 500 ms, doubled to 30 s, with at most a tenth of jitter")
    func backoff() {
        var script = Script([service("s")])
        script.feed(.begun)
        var expected = Duration.milliseconds(500)
        for pid in Int32(10)..<20 {
            script.feed(.spawned(0, pid: pid))
            script.feed(.exited(pid: pid, .exited(1)))
            guard case .backingOff(let until, let delay, _) = script.engine.states[0] else {
                Issue.record("not backing off")
                return
            }
            #expect(delay >= expected && delay <= expected * 1.1)
            #expect(until == script.now + delay && script.engine.nextDeadline == until)
            _ = script.take()
            script.advance(delay - .milliseconds(1))
            #expect(script.take() == [])
            script.advance(.milliseconds(1))
            #expect(script.take() == [.spawn(0)])
            expected = min(expected * 2, .seconds(30))
        }
        #expect(script.engine.restarts[0] == 10)
    }

    @Test("thirty seconds of running are forgiveness")
    func backoffReset() {
        var script = Script([service("s")])
        script.feed(.begun)
        for pid in Int32(10)..<15 {
            script.feed(.spawned(0, pid: pid))
            script.feed(.exited(pid: pid, .exited(1)))
            script.advance(.seconds(40))
        }
        script.feed(.spawned(0, pid: 99))
        script.now = script.now + .seconds(31)
        script.feed(.exited(pid: 99, .exited(1)))
        guard case .backingOff(_, let delay, _) = script.engine.states[0] else {
            Issue.record("not backing off")
            return
        }
        #expect(delay <= .milliseconds(550))
    }

    @Test("on-failure gives up after its limit, and success ends it at once")
    func onFailure() {
        var script = Script([service("s", .onFailure(limit: 3)), service("ok", .onFailure(limit: 3))])
        script.feed(.begun)
        script.feed(.spawned(1, pid: 50))
        script.feed(.exited(pid: 50, .exited(0)))
        #expect(script.engine.states[1] == .ended(.exited(.exited(0)), byRequest: false))
        for pid in Int32(10)..<14 {
            script.feed(.spawned(0, pid: pid))
            script.feed(.exited(pid: pid, .exited(1)))
            script.advance(.seconds(40))
        }
        #expect(script.engine.states[0] == .ended(.exited(.exited(1)), byRequest: false))
        #expect(script.engine.restarts[0] == 3)
    }

    @Test("a stop takes tasks first, then services, each with its own signal")
    func stopOrder() {
        var db = service("db")
        db.stopSignal = .quit
        var script = Script([db, UnitSpec(name: "task", kind: .task)])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        _ = script.take()
        script.feed(.shutdownRequested)
        #expect(script.take() == [.signal(pid: 11, .terminate)])
        script.feed(.exited(pid: 11, .signalled(.terminate, coreDumped: false)))
        #expect(script.take() == [.kill(1, group: 11), .signal(pid: 10, .quit)])
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.take() == [.kill(0, group: 10), .finish(0)])
    }

    @Test("what does not end within its grace is killed, and the budget kills everything")
    func graceAndBudget() {
        var short = UnitSpec(name: "short", kind: .task)
        short.stopGrace = .seconds(1)
        var long = UnitSpec(name: "long", kind: .task)
        long.stopGrace = .seconds(100)
        var script = Script([short, long], budget: .seconds(3))
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.feed(.shutdownRequested)
        _ = script.take()
        script.advance(.seconds(1))
        #expect(script.take() == [.kill(0, group: 10)])
        script.advance(.seconds(2))
        #expect(script.take().contains(.kill(1, group: 11)))
        script.advance(.seconds(1))
        #expect(script.take().last == .finish(0))
    }

    @Test("the command's end is the workspace's")
    func command() {
        var script = Script([UnitSpec(name: "task", kind: .task), UnitSpec(name: "command", kind: .command)])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.feed(.exited(pid: 11, .exited(7)))
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.take().last == .finish(7))
    }

    @Test("a unit that cannot be started is an ending like any other")
    func spawnFailure() {
        var script = Script([service("s"), UnitSpec(name: "task", kind: .task)])
        script.feed(.begun)
        script.feed(.spawnFailed(0, reason: "cannot execute"))
        script.feed(.spawnFailed(1, reason: "cannot execute"))
        #expect(script.engine.lastEndings[1]?.code == 127)
        guard case .backingOff = script.engine.states[0] else {
            Issue.record("a service that cannot be started is tried again")
            return
        }
    }

    @Test("a restart stops and starts, and wakes what waits or has ended")
    func restart() {
        var script = Script([service("s"), UnitSpec(name: "task", kind: .task)])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.feed(.exited(pid: 11, .exited(0)))
        _ = script.take()
        script.feed(.restartRequested(0))
        #expect(script.take() == [.signal(pid: 10, .terminate)])
        script.feed(.exited(pid: 10, .signalled(.terminate, coreDumped: false)))
        #expect(script.take() == [.kill(0, group: 10), .spawn(0)])
        script.feed(.restartRequested(1))
        #expect(script.take() == [.spawn(1)])
    }

    @Test("a redefined unit ends in the old way and starts in the new one")
    func redefined() {
        var old = service("s")
        old.stopSignal = .interrupt
        old.stopGrace = .seconds(1)
        var script = Script([old])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        _ = script.take()
        script.feed(.redefined(0, service("s", .no)))
        #expect(script.take() == [.signal(pid: 10, .interrupt)])
        script.advance(.seconds(1))
        #expect(script.take() == [.kill(0, group: 10)])
        script.feed(.exited(pid: 10, .signalled(.kill, coreDumped: false)))
        #expect(script.take() == [.kill(0, group: 10), .spawn(0)])
        script.feed(.spawned(0, pid: 11))
        script.feed(.exited(pid: 11, .exited(1)))
        #expect(script.engine.states[0] == .ended(.exited(.exited(1)), byRequest: false))
    }

    @Test("an adjusted unit goes on, and its new policy holds")
    func adjusted() {
        var script = Script([service("s", .no)])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        _ = script.take()
        script.feed(.adjusted(0, service("s", .always)))
        #expect(script.take() == [])
        script.feed(.exited(pid: 10, .exited(0)))
        script.advance(.seconds(1))
        #expect(script.take() == [.kill(0, group: 10), .spawn(0)])
    }

    @Test("a removed unit stops and stays so, an essential one without the workspace; it may return")
    func removed() {
        var essential = service("s")
        essential.isEssential = true
        var script = Script([essential, service("backing off")])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawnFailed(1, reason: "no"))
        _ = script.take()
        script.feed(.removed(0))
        script.feed(.removed(1))
        script.feed(.exited(pid: 10, .exited(3)))
        script.feed(.restartRequested(0))
        script.advance(.seconds(60))
        #expect(script.take() == [.signal(pid: 10, .terminate), .kill(0, group: 10)])
        #expect(!script.engine.isStopping && script.engine.nextDeadline == nil)
        script.feed(.redefined(0, essential))
        #expect(script.take() == [.spawn(0)])
    }

    @Test("an added unit starts at once, skipped ones and those of a stopping workspace do not")
    func added() {
        var script = Script([UnitSpec(name: "t", kind: .task)])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.added(service("new")))
        var skipped = service("skipped")
        skipped.skipped = "nothing to run"
        script.feed(.added(skipped))
        #expect(script.take() == [.spawn(0), .spawn(1)])
        #expect(script.engine.states[2] == .skipped("nothing to run"))
        script.feed(.spawned(1, pid: 11))
        script.feed(.shutdownRequested)
        script.feed(.added(service("late")))
        #expect(script.take() == [.signal(pid: 10, .terminate)])
    }

    @Test("a unit that is silent for longer than its watchdog allows is stopped and starts anew")
    func watchdog() {
        var spec = service("a")
        spec.watchdog = .seconds(10)
        var script = Script([spec])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        _ = script.take()
        for _ in 0..<5 {
            script.advance(.seconds(9))
            script.feed(.watchdogFed(0))
        }
        #expect(script.take().isEmpty)
        #expect(script.engine.nextDeadline == script.now + .seconds(10))
        script.advance(.seconds(10))
        #expect(script.take() == [.signal(pid: 10, .terminate)])
        // Too late.
        script.feed(.watchdogFed(0))
        script.feed(.exited(pid: 10, .signalled(.terminate, coreDumped: false)))
        script.advance(.seconds(1))
        #expect(script.take() == [.kill(0, group: 10), .spawn(0)])
        #expect(script.engine.restarts[0] == 1)
    }

    @Test("a prebuild ends with its tasks, and with 1 when one failed or could not run")
    func prebuild() {
        var script = Script([
            service("db"), task("a"), task("b", after: [.init("a", .completedSuccessfully)]), task("c"),
        ])
        script.engine.endsWithTasks = true
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.feed(.spawned(3, pid: 13))
        script.feed(.exited(pid: 13, .exited(0)))
        #expect(!script.engine.isStopping)
        // b will never run.
        script.feed(.exited(pid: 11, .exited(2)))
        #expect(script.engine.isStopping)
        #expect(script.take().last == .signal(pid: 10, .terminate))
        script.feed(.exited(pid: 10, .signalled(.terminate, coreDumped: false)))
        #expect(script.take().last == .finish(1))
        var fine = Script([task("a")])
        fine.engine.endsWithTasks = true
        fine.feed(.begun)
        fine.feed(.spawned(0, pid: 10))
        fine.feed(.exited(pid: 10, .exited(0)))
        #expect(fine.take().last == .finish(0))
    }

    @Test("a unit that was asked to end has ended when its group has")
    func leaving() {
        var script = Script([service("a"), task("b", after: [.init("a", .started)])])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.leaving = [1]
        script.feed(.shutdownRequested)
        script.advance(.milliseconds(100))
        script.feed(.exited(pid: 11, .signalled(.terminate, coreDumped: false)))
        script.advance(.milliseconds(100))
        // What it started may need the service still.
        #expect(script.take() == [.spawn(0), .spawn(1), .signal(pid: 11, .terminate)])
        #expect(script.engine.states[1].hasProcess)
        #expect(script.engine.nextDeadline.map { $0 - script.now } == .milliseconds(25))
        script.leaving = []
        script.advance(.milliseconds(25))
        #expect(script.take() == [.kill(1, group: 11), .signal(pid: 10, .terminate)])
        script.feed(.exited(pid: 10, .exited(0)))
        #expect(script.take() == [.kill(0, group: 10), .finish(0)])
    }

    @Test("what is left has the rest of the unit's grace, another supervisor or not; then comes what was to follow")
    func leavingTooLong() {
        var script = Script([service("a")])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.leaving = [0]
        script.feed(.restartRequested(0))
        script.advance(.seconds(2))
        script.feed(.exited(pid: 10, .exited(0)))
        script.takeOver()
        script.advance(.milliseconds(2900))
        #expect(script.take() == [])
        script.advance(.milliseconds(100))
        #expect(script.takeReports() == ["left processes that did not end within its grace: killed"])
        #expect(script.engine.states[0] == .starting && script.engine.restarts == [1])
    }

    @Test("a crash for want of memory is one, and is counted")
    func outOfMemory() {
        var script = Script([service("a")])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.outOfMemory(pid: 10, .signalled(.kill, coreDumped: false), isCertain: true))
        #expect(script.engine.lastEndings[0]?.description == "SIGKILL, out of memory")
        #expect(script.engine.lastEndings[0]?.code == 137)
        script.takeOver()
        #expect(script.engine.outOfMemoryKills == [1])
    }

    @Test("what is to run first runs before the unit is asked to end, within its grace")
    func preStop() {
        var spec = service("a")
        spec.hasPreStop = true
        var script = Script([spec])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.stopRequested([0]))
        #expect(script.take() == [.spawn(0), .preStop(0)])
        script.feed(.preStopEnded(0))
        #expect(script.take() == [.signal(pid: 10, .terminate)])
        script.feed(.exited(pid: 10, .exited(0)))
        _ = script.take()
        // One that takes too long, and one that ends the unit itself.
        script.feed(.startRequested(0))
        script.feed(.spawned(0, pid: 11))
        script.feed(.restartRequested(0))
        _ = script.take()
        script.advance(.seconds(5))
        #expect(script.take() == [.cancelPreStop(0), .kill(0, group: 11)])
        script.feed(.exited(pid: 11, .signalled(.kill, coreDumped: false)))
        script.feed(.spawned(0, pid: 12))
        script.feed(.stopRequested([0]))
        _ = script.take()
        script.feed(.exited(pid: 12, .exited(0)))
        #expect(script.take() == [.cancelPreStop(0), .kill(0, group: 12)])
        script.feed(.preStopEnded(0))
        #expect(script.take() == [])
    }

    @Test("an exit code that is a success for it ends it well")
    func successCodes() {
        var spec = service("a", .onFailure(limit: 3))
        spec.successCodes = [3, 143]
        var script = Script([spec, task("b", after: [.init("a", .completedSuccessfully)])])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.exited(pid: 10, .exited(3)))
        #expect(script.take() == [.spawn(0), .kill(0, group: 10), .spawn(1)])
        #expect(script.engine.states[0] == .ended(.succeeded(.exited(3)), byRequest: false))
        #expect(script.engine.lastEndings[0]?.code == 3 && script.engine.restarts == [0, 0])
    }

    @Test("one that does not say in time that it is ready is stopped, and starts anew with its delay")
    func readyTimeout() {
        var spec = service("a", .onFailure(limit: 1))
        spec.awaitsReadiness = true
        spec.readyTimeout = .seconds(2)
        var script = Script([spec])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        _ = script.take()
        script.takeOver()
        script.advance(.seconds(2))
        #expect(script.take() == [.signal(pid: 10, .terminate)])
        script.feed(.exited(pid: 10, .exited(0)))
        script.advance(.seconds(1))
        script.feed(.spawned(0, pid: 11))
        script.feed(.notifiedReady(0))
        script.advance(.seconds(10))
        #expect(script.take() == [.kill(0, group: 10), .spawn(0)])
        #expect(script.engine.lastEndings[0]?.description == "not ready in time")
    }

    /// Random histories; the invariants of the theory of operation hold in each.
    @Test("invariants hold in generated histories", arguments: 0..<200)
    func generated(seed: Int) {
        var random = SeededGenerator(seed: UInt64(seed))
        let specs = (0..<Int.random(in: 1...8, using: &random)).map { index -> UnitSpec in
            var spec = UnitSpec(name: "u\(index)", kind: Bool.random(using: &random) ? .service : .task)
            spec.restart = [.no, .always, .onFailure(limit: 2)].randomElement(using: &random) ?? .no
            spec.isEssential = Int.random(in: 0..<20, using: &random) == 0
            spec.awaitsReadiness = Int.random(in: 0..<4, using: &random) == 0
            spec.hasPreStop = Int.random(in: 0..<3, using: &random) == 0
            spec.readyTimeout = spec.awaitsReadiness && Bool.random(using: &random) ? .seconds(2) : nil
            spec.isSocketActivated = Int.random(in: 0..<6, using: &random) == 0
            if Bool.random(using: &random) {
                spec.healthcheck = HealthcheckSpec(probe: .port(1))
                spec.healthcheck?.interval = .seconds(1)
                spec.healthcheck?.retries = 2
            }
            if index > 0, Bool.random(using: &random) {
                let other = "u\(Int.random(in: 0..<index, using: &random))"
                spec.dependencies = [
                    .init(other, DependencySpec.Condition.allCases.randomElement(using: &random) ?? .started)
                ]
            }
            return spec
        }
        var script = Script(specs)
        var processes: [Int: Int32] = [:]
        /// Units whose last errand runs.
        var errands: Set<Int> = []
        /// What units that were asked to end have left.
        var groups: [Int: Int32] = [:]
        var pending: [Int] = []
        var nextPid: Int32 = 100
        var finishes = 0
        var everStarted: Set<Int> = []
        var everSucceeded: Set<Int> = []
        var probes: [(id: Int, number: Int)] = []
        script.feed(.begun)
        for step in 0..<400 {
            for action in script.take() {
                switch action {
                case .spawn(let id):
                    #expect(processes[id] == nil, "at most one process per unit")
                    #expect(groups[id] == nil, "one that was asked to end has ended with its group, or was killed")
                    #expect(!script.engine.isStopping || step == 0, "nothing is started once a shutdown began")
                    for dependency in script.engine.specs[id].dependencies where !everStarted.contains(id) {
                        guard let other = script.engine.specs.firstIndex(where: { $0.name == dependency.name }) else {
                            continue
                        }
                        #expect(everStarted.contains(other), "nothing starts before what it depends on")
                        if dependency.condition == .completedSuccessfully { #expect(everSucceeded.contains(other)) }
                    }
                    pending.append(id)
                case .finish:
                    finishes += 1
                case .probe(let id, let number):
                    #expect(processes[id] != nil, "only what runs is probed")
                    probes.append((id, number))
                case .kill(let id, let group): if groups[id] == group { groups[id] = nil }
                case .preStop(let id): errands.insert(id)
                case .cancelPreStop(let id): errands.remove(id)
                case .signal, .signalMain, .lookForGroup, .report, .reportEnd, .announce, .cancelProbe: break
                }
            }
            if step == 300 { script.feed(.shutdownRequested) }
            switch Int.random(in: 0..<9, using: &random) {
            case 8 where Bool.random(using: &random):
                if let id = errands.sorted().first {
                    errands.remove(id)
                    script.feed(.preStopEnded(id))
                }
            case 8:
                if let id = groups.keys.sorted().randomElement(using: &random) {
                    groups[id] = nil
                    script.leaving.remove(id)
                }
            case 7 where script.engine.phase != .finished:
                // Another supervisor takes over: what was asked of this one and is not done is asked of that one anew.
                script.takeOver()
                for id in errands { script.engine.resumePreStop(id) }
                pending = []
                probes = []
            case 5:
                if !probes.isEmpty {
                    let probe = probes.removeFirst()
                    script.feed(
                        .probed(
                            probe.id, number: probe.number,
                            Bool.random(using: &random) ? .succeeded : .failed("exit status 1")))
                }
            case 6:
                let id = Int.random(in: script.engine.specs.indices, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: script.feed(.notifiedReady(id))
                case 1: script.feed(.startRequested(id))
                case 2: script.feed(.stopRequested([id]))
                default: script.feed(.connectionArrived(id))
                }
            case 0 where !pending.isEmpty:
                let id = pending.removeFirst()
                if Int.random(in: 0..<10, using: &random) == 0 {
                    script.feed(.spawnFailed(id, reason: "no"))
                } else {
                    processes[id] = nextPid
                    everStarted.insert(id)
                    script.feed(.spawned(id, pid: nextPid))
                    nextPid += 1
                }
            case 1:
                if let (id, pid) = processes.randomElement(using: &random) {
                    processes[id] = nil
                    let code = UInt8.random(in: 0...1, using: &random)
                    if code == 0 { everSucceeded.insert(id) }
                    script.leaving.remove(id)
                    if case .stopping = script.engine.states[id], Bool.random(using: &random) {
                        groups[id] = pid
                        script.leaving.insert(id)
                    }
                    script.feed(.exited(pid: pid, .exited(code)))
                }
            case 2: script.feed(.restartRequested(Int.random(in: specs.indices, using: &random)))
            case 3:
                var spec = specs.randomElement(using: &random) ?? service("new")
                let id = Int.random(in: script.engine.specs.indices, using: &random)
                let isNew = Int.random(in: 0..<8, using: &random)
                // A name is one unit's; what depends on it depends on units before it.
                spec.name = isNew == 0 ? "n\(script.engine.specs.count)" : script.engine.specs[id].name
                spec.dependencies = isNew == 0 ? spec.dependencies : script.engine.specs[id].dependencies
                switch isNew {
                case 0 where script.engine.specs.count < 20: script.feed(.added(spec))
                case 1...3: script.feed(.redefined(id, spec))
                case 4, 5: script.feed(.adjusted(id, spec))
                default: script.feed(.removed(id))
                }
            default: script.advance(.milliseconds(Int.random(in: 0...3000, using: &random)))
            }
        }
        for _ in 0..<20 { script.advance(.seconds(1)) }
        finishes += script.take().filter { if case .finish = $0 { true } else { false } }.count
        #expect(finishes == 1, "finish is said once")
    }
}

@Suite("LineSplitter")
struct LineSplitterTests {
    private func lines(_ chunks: [String]) -> [String] {
        var splitter = LineSplitter()
        var result: [String] = []
        for chunk in chunks {
            splitter.feed(Array(chunk.utf8)[...]) { result.append(String(decoding: $0, as: UTF8.self)) }
        }
        splitter.finish { result.append(String(decoding: $0, as: UTF8.self)) }
        return result
    }

    @Test("lines come whole however the bytes came")
    func chunks() {
        #expect(lines(["one\ntwo\n", "thr", "ee\r\n", "\nlast"]) == ["one", "two", "three", "", "last"])
    }

    @Test("a line longer than the limit is cut, and nothing of it is lost")
    func longLines() {
        let long = String(repeating: "x", count: 20_000)
        let parts = lines([long + "\nend\n"])
        #expect(parts.allSatisfy { $0.utf8.count <= LineSplitter.limit })
        #expect(parts.dropLast().joined() == long && parts.last == "end")
    }
}

@Suite("TaskScript")
struct TaskScriptTests {
    private func script(fresh: Bool) -> String {
        let marker = InitMarker(workspace: "/it's", name: "a/b", script: "i", position: 1, others: [])
        return PlannedTask(before: "b", initialize: "i", command: "c", marker: marker).script(runsInit: fresh)
    }

    @Test("a fresh start runs before, init, command, and remembers that init succeeded")
    func fresh() {
        let text = script(fresh: true)
        #expect(text.hasPrefix("{\nb\n} && {\ni\n} && { [ -d '/it'\\''s/.workspacekit/init' ]"))
        #expect(text.contains("> '/it'\\''s/.workspacekit/init/a%2Fb' ||") && text.hasSuffix("; } && {\nc\n}"))
    }

    @Test("a later start runs before and command")
    func later() { #expect(script(fresh: false) == "{\nb\n} && {\nc\n}") }
}
