import Config
import Control
import Kernel
import Testing

@testable import Supervisor

/// What an edit means for what runs.
@Suite("Reload")
struct ReloadTests {
    private func configuration(_ text: String) -> WorkspaceConfiguration {
        let reading = Reading(Array(text.utf8), file: ".gitpod.yml")
        #expect(!reading.hasErrors, "\(reading.rendered())")
        return reading.configuration
    }

    private func units(_ configuration: WorkspaceConfiguration) -> [PlannedUnit] {
        let plan = SupervisorPlan(
            sources: [], files: ConfigurationFiles(path: "/w/.gitpod.yml", name: ".gitpod.yml"),
            workspaceDirectory: "/", stateDirectory: "/run/x", command: [], isQuiet: false, budget: .seconds(1))
        var planner = UnitPlanner(configuration: configuration, plan: plan, inherited: ["PATH=/usr/bin:/bin"])
        return planner.units()
    }

    private func reload(_ before: String, _ after: String, removed: Set<Int> = []) -> Reload {
        let (old, new) = (configuration(before), configuration(after))
        let running = units(old)
        return Reload(
            units: running, isRemoved: running.indices.map(removed.contains), wanted: units(new), from: old, to: new)
    }

    private func sentences(_ before: String, _ after: String) -> [String] {
        reload(before, after).changes.map(\.sentence)
    }

    @Test("the same is nothing, comments and order of keys too")
    func same() {
        #expect(
            sentences(
                "tasks: [{name: a, command: x}]\nenv: {A: 1, B: 2}",
                "# c\nenv: {A: 1, B: 2}\ntasks:\n- command: x\n  name: a") == [])
    }

    @Test("each key is told by its name")
    func keys() {
        #expect(
            sentences("tasks: [{name: a, command: x}]", "tasks: [{name: a, command: y}]") == [
                "task a: restart (command)"
            ])
        #expect(
            sentences("tasks: [{name: a, command: x}]", "tasks: [{name: a, init: i, before: b, command: x}]")
                == ["task a: restart (before, init)"])
        #expect(sentences("tasks: [{name: a}]", "tasks: [{name: a}]\nenv: {A: 1}") == ["task a: restart (environment)"])
        #expect(
            sentences(
                "workspacekit: {services: {s: {command: a}}}",
                "workspacekit: {services: {s: {command: a, ulimits: {nofile: 5}, oom_score_adj: 5, working_dir: /tmp}}}"
            )
                == ["service s: restart (working_dir, ulimits, oom_score_adj)"])
        #expect(
            sentences(
                "workspacekit: {services: {s: {command: a}}}",
                "workspacekit: {services: {s: {command: a, restart: always, stop_signal: INT, essential: true}}}")
                == ["service s: changed, without a restart (restart, stop_signal, essential)"])
    }

    @Test("units without names are told by their place, and those of one name by their order")
    func names() {
        #expect(sentences("tasks: [{command: a}]", "tasks: [{command: a}, {command: b}]") == ["task task-2: start"])
        #expect(
            sentences(
                "tasks: [{name: a, command: x}, {name: a, command: y}]",
                "tasks: [{name: a, command: x}, {name: a, command: z}]")
                == ["task a: restart (command)"])
        #expect(
            sentences("tasks: [{name: a, command: x}]", "workspacekit: {services: {a: {command: x}}}")
                == ["service a: start", "task a: stop"])
    }

    @Test("a unit that was removed returns to its place")
    func returns() {
        let reload = reload("tasks: [{name: a}, {name: b}]", "tasks: [{name: a}, {name: b}]", removed: [1])
        #expect(reload.changes.map(\.sentence) == ["task b: start"])
        guard case .redefine(1, _)? = reload.steps.first else { return #expect(Bool(false), "\(reload.steps)") }
        #expect(reload.steps.count == 1)
    }

    @Test("ports and settings are said too")
    func portsAndSettings() {
        #expect(
            sentences("ports: [{port: 1}, {port: 2-3, name: x}]", "ports: [{port: 2-3, name: y}, {port: 4}]")
                == ["port 2-3: changed, without a restart", "port 4: declared", "port 1: no longer declared"])
        #expect(
            sentences(
                "env: {}", "workspacekit: {network: {mtu: 1400}, shutdown: {grace: 1s}}\nexperimentalNetwork: false")
                == ["experimentalNetwork", "workspacekit.network", "workspacekit.shutdown.grace"].map {
                    "setting \($0): takes effect at the next start of the workspace"
                })
    }

    @Test("a plan comes through its memory file as it was")
    func plan() {
        var plan = SupervisorPlan(
            sources: [
                Source(name: "a", bytes: [0xff, 0xff, 0xff, 0xff, 1]), Source(name: "b/.workspacekit.yml", bytes: []),
                Source(name: "c", bytes: [2, 3]),
            ], files: ConfigurationFiles(path: "/w/a", name: "a"), workspaceDirectory: "/w", stateDirectory: "/s",
            command: ["x", "", "y z"], isQuiet: true, budget: .milliseconds(1500))
        #expect(SupervisorPlan(decoding: plan.encoded) == plan)
        plan.link = WorkspaceLink(
            name: "tap0", mtu: 1500, queueLength: 8192,
            addresses: [Subnet(IPAddress(v4: 0x0a00_0264), 24), Subnet(.loopback6, 64)], routes: [.default(via: .any4)])
        #expect(SupervisorPlan(decoding: plan.encoded) == plan)
        #expect(SupervisorPlan(decoding: Array(plan.encoded.dropLast(2))) == nil)
        #expect(SupervisorPlan(decoding: []) == nil)
    }

    @Test("signals and limits that the configuration takes, the kernel's wrappers know")
    func words() {
        for number in 1...64 { #expect(Signal(name: "\(number)") != nil) }
        let names = configuration(
            "workspacekit: {services: {"
                + (1...31).map { "s\($0): {command: x, stop_signal: \(Signal(rawValue: Int32($0)))}" }.joined(
                    separator: ", ") + "}}")
        #expect(names.services.count == 31)
        for resource in ResourceLimit.Resource.allCases {
            #expect(ProcessLimit.Resource(name: resource.rawValue) != nil)
        }
    }
}
