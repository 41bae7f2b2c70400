import Config
import Control
import Kernel
import Testing

@testable import Supervisor

@Suite("Takeover")
struct TakeoverTests {
    static let endings: [Ending] = [
        .exited(.exited(3)), .exited(.signalled(.kill, coreDumped: false)),
        .exited(.signalled(.quit, coreDumped: true)),
        .notStarted("cannot find x: no such file"),
        .unhealthy(.signalled(.terminate, coreDumped: false), because: "exit status 3: a; b"), .notReady(.exited(0)),
        .succeeded(.exited(3)),
        .outOfMemory(.signalled(.kill, coreDumped: false), isCertain: true),
        .outOfMemory(.exited(137), isCertain: false),
    ]
    static let instant = MonotonicInstant(nanoseconds: 123_456_789)
    static func leftovers(_ ending: Ending) -> Leftovers {
        // Whoever takes over looks at once.
        let lookAt = MonotonicInstant(nanoseconds: 0)
        return Leftovers(group: 7, killAt: instant, lookAt: lookAt, next: .unhealthy, ending: ending)
    }
    static let states: [UnitState] =
        [
            .waiting, .listening, .running(pid: 7, since: instant), .skipped("no \u{e9} a b  c"),
            .stopping(pid: 7, killAt: instant, then: .stay), .stopping(pid: 7, killAt: instant, then: .start),
            .stopping(pid: 7, killAt: instant, then: .notReady), .starting,
        ] + endings.map { .ended($0, byRequest: true) } + endings.map { .ended($0, byRequest: false) }
        + endings.map { .leaving(leftovers($0)) }
        + endings.map { .backingOff(until: instant, delay: .milliseconds(512), last: $0) }

    @Test("a record reads back as it was written", arguments: states)
    func roundTrip(state: UnitState) throws {
        var engine = Engine([service("web")], budget: .seconds(6), seed: 1)
        engine.states[0] = state
        var record = UnitRecord(engine, 0, statusText: "all is well")
        record.lastEnding = Self.endings.randomElement()
        record.isHealthy = false
        #expect(UnitRecord(fields: record.fields) == record)
        #expect(UnitRecord(fields: Array(record.fields.dropLast())) == nil)
    }

    @Test("what runs is not started again, and its end is still known")
    func running() {
        var script = Script([service("a"), service("b", after: [.init("a", .started)]), task("c")])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.takeOver()
        // c was asked for, and never became a process.
        #expect(script.take() == [.spawn(2)])
        script.feed(.exited(pid: 10, .exited(1)))
        script.advance(.seconds(1))
        #expect(script.take() == [.kill(0, group: 10), .spawn(0)])
        #expect(script.engine.restarts == [1, 0, 0])
    }

    @Test("the next try comes when it was to come")
    func backoff() {
        var script = Script([service("a")])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.exited(pid: 10, .exited(1)))
        let due = script.engine.nextDeadline
        script.takeOver()
        #expect(script.engine.nextDeadline == due)
        #expect(script.engine.backoffs[0].failures == 1)
    }

    @Test("a shutdown keeps its budget and its code")
    func shutdown() {
        var spec = service("a")
        spec.isEssential = true
        var script = Script([spec, service("b")])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.feed(.spawned(1, pid: 11))
        script.engine.specs[0].restart = .no
        script.feed(.exited(pid: 10, .exited(9)))
        script.advance(.seconds(1))
        let before = script.engine.phaseFields
        script.takeOver()
        #expect(script.engine.isStopping && script.engine.phaseFields == before)
        script.feed(.exited(pid: 11, .exited(0)))
        #expect(script.take().last == .finish(9))
        // Killed between the end and the telling of it: it is told again.
        script.takeOver()
        #expect(script.take() == [.finish(9)])
    }

    @Test("a probed unit keeps its health, and is probed on")
    func health() {
        var spec = service("a")
        spec.healthcheck = HealthcheckSpec(probe: .port(1))
        var script = Script([spec])
        script.feed(.begun)
        script.feed(.spawned(0, pid: 10))
        script.advance(.milliseconds(100))
        script.feed(.probed(0, number: 1, .succeeded))
        script.takeOver()
        #expect(script.engine.isReady(0) && script.engine.isHealthy(0))
        _ = script.take()
        script.advance(.milliseconds(100))
        #expect(script.take() == [.probe(0, number: 1)])
    }

    @Test("units keep their places; one that the configuration no longer has is what its record says")
    func places() {
        func planned(_ name: String) -> PlannedUnit {
            PlannedUnit(
                spec: service(name), arguments: ["x"], environment: [], directory: "/", limits: [], aspects: [])
        }
        let engine = Engine([service("a"), service("gone"), service("b")], budget: .seconds(6), seed: 1)
        let records = engine.specs.indices.map { UnitRecord(engine, $0, statusText: "") }
        let (units, isKnown) = Supervisor.arrange([planned("new"), planned("b"), planned("a")], records)
        #expect(units.map(\.spec.name) == ["a", "gone", "b", "new"])
        #expect(isKnown == [true, false, true, true])
        #expect(units[1].arguments.isEmpty)
    }

    @Test("the state outlives whoever wrote it")
    func savedState() throws {
        func plan(_ text: String) -> SupervisorPlan {
            SupervisorPlan(
                sources: [Source(name: ".gitpod.yml", bytes: Array(text.utf8))],
                files: ConfigurationFiles(path: "/w/.gitpod.yml", name: ".gitpod.yml"), workspaceDirectory: "/w",
                stateDirectory: "/s", command: [], isQuiet: false, budget: .seconds(6))
        }
        let file = try SavedState.file(for: plan("one"))
        let duplicate = { try OwnedDescriptor.duplicate(of: file.number) }
        let first = SavedState(try duplicate())
        #expect(first.plan() == plan("one") && first.whole.isEmpty && first.records().isEmpty)
        let engine = Engine([service("a"), service("b")], budget: .seconds(6), seed: 1)
        let records = engine.specs.indices.map { UnitRecord(engine, $0, statusText: "") }
        for (place, record) in records.enumerated() { first.save(record, at: place) }
        first.save(whole: ["reported", "running", "0"])
        let jobs = (0..<3).map { first.add(["exec", "\($0)"]) }
        first.removeJob(jobs[1])
        try first.save(plan("two"))
        let second = SavedState(try duplicate())
        #expect(second.plan() == plan("two") && second.whole == ["reported", "running", "0"])
        #expect(second.records() == records)
        #expect(second.jobs == [0: ["exec", "0"], 2: ["exec", "2"]])
        #expect(second.add(["probe", "9"]) == 1)
        // A slot that was damaged costs what is in it, and nothing that comes after it.
        #expect(Kernel.write(file.number, [0xff], at: (64 << 10) + 20) == .bytes(1))
        #expect(SavedState(try duplicate()).records() == [nil, records[1]])
        #expect(Kernel.write(file.number, [0xff], at: (32 << 20) + 20) == .bytes(1))
        #expect(SavedState(try duplicate()).jobs == [1: ["probe", "9"], 2: ["exec", "2"]])
    }

    @Test("a record that is lost is taken for that of a unit without one")
    func lostRecord() {
        func planned(_ name: String) -> PlannedUnit {
            PlannedUnit(
                spec: service(name), arguments: ["x"], environment: [], directory: "/", limits: [], aspects: [])
        }
        let engine = Engine([service("a"), service("b")], budget: .seconds(6), seed: 1)
        let kept = UnitRecord(engine, 1, statusText: "")
        let (units, isKnown) = Supervisor.arrange([planned("b"), planned("a"), planned("c")], [nil, kept])
        #expect(units.map(\.spec.name) == ["a", "b", "c"] && isKnown == [true, true, true])
    }

    @Test("a record has a bounded size, whatever is in it")
    func boundedRecord() throws {
        let family = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{200d}\u{1f466}"
        let long = String(repeating: family, count: 300)
        let names = [long, long + "x"]
        let engine = Engine(names.map { service($0) }, budget: .seconds(6), seed: 1)
        var record = UnitRecord(engine, 0, statusText: long)
        record.state = .ended(.notStarted(long, code: 126), byRequest: true)
        record.lastEnding = .notStarted(long)
        #expect(record.fields.map(\.utf8.count).reduce(0, +) < 1536)
        let read = try #require(UnitRecord(fields: record.fields))
        #expect(
            read.name == BoundedName.of(long) && long.unicodeScalars.starts(with: read.statusText.unicodeScalars)
                && !read.statusText.isEmpty)
        #expect(read.lastEnding?.code == 127)
        #expect(BoundedName.of(names[0]) != BoundedName.of(names[1]) && BoundedName.of(read.name) == read.name)
        let files = names.map { FileNames.encode($0) }
        #expect(Set(files).count == 2 && files.allSatisfy { $0.utf8.count <= 200 })
        #expect(names.allSatisfy { FileNames.encode(BoundedName.of($0)) == FileNames.encode($0) })
    }

    @Test(
        "a name of a file reads back as the name it is for",
        arguments: [
            "a/b", "a_b", "a%2Fb", "", ".", "..", ".x", "größe 2", "\u{1f680}", "line\r\nfeed", "a~b", "%", "%4",
        ])
    func fileNames(name: String) {
        let file = FileNames.encode(name)
        #expect(FileNames.decode(file) == name && !file.contains("/") && !file.hasPrefix(".") && !file.isEmpty)
    }

    @Test("keys are told apart by their numbers")
    func keys() {
        let keys: [Keeper.Key] = [
            .control, .output(3), .listener(4, 0xffff_ffff), .newline(0), .notifications(16_000), .client(99),
        ]
        for key in keys { #expect(Keeper.Key(rawValue: key.rawValue) == key) }
        #expect(Set(keys.map(\.rawValue)).count == keys.count)
        #expect(Keeper.Key(rawValue: 0) == nil)
    }

    @Test(
        "a call of sync-done is found as a shell would",
        arguments: [
            ("gp sync-done setup", true), ("npm ci && gp sync-done setup; x", true), ("gp sync-done 'setup'", true),
            ("(gp sync-done \"setup\")", true), ("gp sync-done setup2", false), ("gp sync-await setup", false),
            ("echo setup", false), ("", false),
        ])
    func syncDone(text: String, isFound: Bool) { #expect(callsSyncDone(text, "setup") == isFound) }
}
