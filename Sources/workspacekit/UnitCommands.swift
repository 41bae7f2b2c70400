internal import ArgumentParser
internal import Control
internal import Kernel

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what runs in the workspace.",
        discussion: """
            With --ready, for probes: exit code 0 once nothing waits, starts, is unhealthy or has failed and the network is in
            order, else 1 and a line for each thing that is missing. Tasks that have ended do not count, however they did.

              workspacekit status
              until workspacekit status --ready; do sleep 1; done
              workspacekit status --json | jq '.units[] | select(.state == "failed")'
            """, aliases: ["ps"])
    @OptionGroup var state: StateOption
    @Flag(help: "As JSON.") var json = false
    @Flag(help: "Whether all is up that is to be up: the exit code, and what is missing.") var ready = false

    func validate() throws {
        if json, ready { throw ValidationError("--ready answers with its exit code, not with JSON") }
    }

    func run() {
        guard let status = require(connect(state.directory).ask(ControlRequest(.status))).status else {
            fail("the workspace sent no status", ExitCodes.internalError)
        }
        if ready { return answer(status) }
        if json { return print(prettyJSON(status)) }
        let rows = [["NAME", "KIND", "STATE", "PID", "RESTARTS", "EXIT", "DETAIL"]] + status.units.map(row)
        printTable(rows)
        if status.isolation != "full" {
            say("this workspace is \(status.isolation) (\"workspacekit doctor\" says what would help)")
        }
        if let root = status.rootOutside {
            say("root inside is user \(root) outside: to keep the container's root, add CAP_SETFCAP")
        }
        if let restarts = status.forwarderRestarts {
            say(
                "network: the forwarder ended \(restarts == 1 ? "once" : "\(restarts) times") and was started again; open connections were reset"
            )
        }
        for problem in status.problems ?? [] {
            let isLost = problem.hasSuffix(WorkspaceStatus.restartCure)
            say("network: \(problem)\(isLost ? "" : " (\"workspacekit net reset\" mends it)")")
        }
    }

    private func answer(_ status: WorkspaceStatus) {
        var missing = status.units.compactMap(\.missing) + (status.problems ?? []).map { "network: \($0)" }
        if status.state != "running" { missing.append("the workspace is \(status.state)") }
        for line in missing { say("not ready: \(line)") }
        quit(missing.isEmpty ? 0 : 1)
    }

    private func row(_ unit: UnitStatus) -> [String] {
        var detail = unit.reason ?? ""
        if unit.state == "running" {
            let parts = [
                unit.uptimeSeconds.map { "up \(seconds($0))" }, unit.isHealthy == true ? "healthy" : nil,
                unit.statusText, unit.probeFailure.map { "last probe: \($0)" },
            ]
            detail = parts.compactMap { $0 }.joined(separator: ", ")
        }
        if let waitsFor = unit.waitsFor, !waitsFor.isEmpty { detail = "for " + waitsFor.joined(separator: ", ") }
        if let left = unit.killSeconds { detail = "killed in \(seconds(left)) at the latest" }
        if let next = unit.nextTrySeconds, let delay = unit.backoffSeconds {
            detail += ", next try in \(seconds(next)) (delay \(seconds(delay)))"
        }
        return [
            unit.name, unit.kind, unit.word, unit.pid.map(String.init) ?? "-", String(unit.restarts),
            unit.exitCode.map(String.init) ?? "-", detail,
        ]
    }

    private func seconds(_ value: Double) -> String { "\((value * 10).rounded() / 10) s" }
}

/// What became of the units that a command names, for scripts.
struct UnitReport: ParsableArguments {
    @Flag(help: "Print what status --json says of them afterwards.") var json = false

    func print(_ names: [String], _ state: StateDirectory) {
        guard json else { return }
        let units = require(connect(state).ask(ControlRequest(.status))).status?.units ?? []
        Swift.print(prettyJSON(units.filter { names.contains($0.name) }))
    }
}

/// Whether a command returns before its request has taken effect.
struct WaitOption: ParsableArguments {
    @Flag(name: .customLong("no-wait"), help: "Return at once, not when it has taken effect.") var noWait = false
}

struct Start: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Start tasks or services that ended, were stopped, or are waiting for a connection.",
        discussion: """
            Returns when they run, and have said that they are ready where the configuration has "ready". Exit code 1 when one
            cannot be started, with the reason.

              workspacekit start web db
            """)
    @OptionGroup var state: StateOption
    @OptionGroup var wait: WaitOption
    @Argument(help: "Which.", completion: .units) var names: [String]

    @OptionGroup var report: UnitReport

    func run() {
        ask(.start, names, state.directory, noWait: wait.noWait)
        report.print(names, state.directory)
    }
}

struct Restart: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Stop tasks or services and start them again.",
        discussion: """
            Returns when they run again, as start does. The init of a task runs once in a workspace, also when its text
            changes; --init runs it again.

              workspacekit restart web && workspacekit wait web --for healthy
              workspacekit restart --init db
            """)
    @OptionGroup var state: StateOption
    @OptionGroup var wait: WaitOption
    @Flag(name: .customLong("init"), help: "Run the init of the tasks again.") var runsInit = false
    @Argument(help: "Which.", completion: .units) var names: [String]

    @OptionGroup var report: UnitReport

    func run() {
        ask(.restart, names, state.directory, noWait: wait.noWait, runsInit: runsInit ? true : nil)
        report.print(names, state.directory)
    }
}

struct SendSignal: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "signal", abstract: "Send a signal to the process groups of tasks or services.",
        discussion: """
            With --main the main processes alone get it, as with docker kill: a reload by SIGHUP often means only the one that
            manages the workers.

              workspacekit signal HUP web
              workspacekit signal --main HUP gunicorn
            """)
    @OptionGroup var state: StateOption
    @Flag(name: .customLong("main"), help: "To the main process of each only.") var mainOnly = false
    @Argument(
        help: "The signal: HUP, SIGHUP or 1.",
        completion: .list(["HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP"])) var signal: String
    @Argument(help: "To which.", completion: .units) var names: [String]

    @OptionGroup var report: UnitReport

    func run() {
        var request = ControlRequest(.signal)
        request.names = names
        request.signal = signal
        request.mainOnly = mainOnly
        _ = require(connect(state.directory).ask(request))
        report.print(names, state.directory)
    }
}

struct Stop: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Stop tasks or services by name; without names the workspace, in order, and wait for its end.",
        discussion: """
            What runs and needs them is to be named too, or --force stops it first. Returns when the last process has ended; for
            the workspace, when its state directory is free for another one.

              workspacekit stop web
              workspacekit stop --force db
              workspacekit stop
            """)
    @OptionGroup var state: StateOption
    @Flag(name: .shortAndLong, help: "What needs them stops too, before them.") var force = false
    @OptionGroup var wait: WaitOption
    @Argument(help: "Which; the whole workspace when none is named.", completion: .units) var names: [String] = []
    @OptionGroup var report: UnitReport

    func run() {
        if !names.isEmpty {
            ask(.stop, names, state.directory, force: force, noWait: wait.noWait)
            return report.print(names, state.directory)
        }
        let client = connect(state.directory)
        if let answer = client.ask(ControlRequest(.stop)) { _ = require(answer) }
        if !wait.noWait { _ = WorkspaceEnd(state.directory).wait(client) }
    }
}

/// The end of a workspace, as another process on the machine sees it.
struct WorkspaceEnd {
    let state: StateDirectory

    init(_ state: StateDirectory) { self.state = state }

    /// Waits until the workspace has ended and its state directory is free for another one; false when the time is over.
    func wait(_ client: ControlClient, _ timeout: Duration? = nil) -> Bool {
        let deadline = timeout.map { MonotonicInstant.now + $0 }
        func isOver() -> Bool { deadline.map { $0 <= .now } ?? false }
        // Until there is no answer any more: a supervisor may be followed by another.
        repeat {
            var answer: ControlResponse?
            repeat {
                let left = deadline.map { max(.zero, $0 - .now) }
                if !waitReadable(client.connection.descriptor.number, left) { return false }
                answer = client.answer()
                if let answer { _ = require(answer) }
            } while answer != nil
        } while client.reconnect()
        // ring0 holds the lock until it ends. A child of the workspace ends before that.
        while !isOver() {
            guard let lock = try? Files.open(state.lock, flags: 0) else { return true }
            if Files.lock(lock) { return true }
            pause(.milliseconds(5))
        }
        return false
    }
}

struct Wait: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Wait until a task or service, or without a name the workspace, has come so far.",
        discussion: """
            started: it has, or had, a process. ready: it said so, or its healthcheck succeeded once, or neither is asked of
            it. healthy: its healthcheck succeeds. completed: it ended with success. stopped: it has ended, or never ran, and
            nothing starts it by itself. The workspace is stopped when its state directory is free for another one.
            Exit code 0; 1 when it cannot come to pass any more, with the reason; 124 when the time is over.

              workspacekit wait db --for healthy --timeout 1m && npm test
            """)
    @OptionGroup var state: StateOption
    @Argument(help: "Which; the workspace, with --for stopped, when none is named.", completion: .units) var name:
        String?
    @Option(
        name: .customLong("for"), help: ArgumentHelp(valueName: "started|ready|healthy|completed|stopped"),
        completion: .list(WaitCondition.allCases.map(\.rawValue)),
        transform: { text in
            guard let condition = WaitCondition(rawValue: text) else {
                throw ValidationError("'\(text)' is none of started, ready, healthy, completed and stopped")
            }
            return condition
        })
    var condition = WaitCondition.ready
    @Option(
        help: ArgumentHelp("Give up after so long: 500ms, 30s, 1m30s.", valueName: "duration"),
        transform: duration)
    var timeout: Duration?
    @OptionGroup var report: UnitReport

    func validate() throws {
        if name == nil, condition != .stopped { throw ValidationError("name a task or service, or wait --for stopped") }
    }

    func run() {
        guard let name else {
            guard let client = try? ControlClient(state.directory) else { return }
            if !WorkspaceEnd(state.directory).wait(client, timeout) {
                fail("the workspace still runs: the time is over", 124)
            }
            return
        }
        var request = ControlRequest(.wait)
        request.names = [name]
        request.condition = condition
        let client = connect(state.directory)
        client.send(request)
        guard waitReadable(client.connection.descriptor.number, timeout) else {
            fail("\(name) is not \(condition.rawValue) yet: the time is over", 124)
        }
        _ = require(client.answer())
        report.print([name], state.directory)
    }
}

/// Asks something about units, or points, by name.
func ask(
    _ verb: ControlRequest.Verb, _ names: [String], _ state: StateDirectory, force: Bool? = nil,
    noWait: Bool? = nil, runsInit: Bool? = nil
) {
    var request = ControlRequest(verb)
    request.names = names
    request.force = force
    request.runsInit = runsInit
    request.noWait = noWait
    _ = require(connect(state).ask(request))
}
