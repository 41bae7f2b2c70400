internal import ArgumentParser
internal import Control
internal import Glibc
internal import Kernel
internal import Ring
internal import SystemPackage

struct WorkspacekitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "workspacekit",
        abstract: "A workspace with its own users, mounts, processes and network, inside an ordinary container.",
        version: "0.1.0",
        subcommands: [
            Run.self, Status.self, Logs.self, Restart.self, Exec.self, Stop.self, Validate.self, Plan.self, Reload.self,
            Configuration.self,
        ])
}

struct StateOption: ParsableArguments {
    @Option(
        name: .customLong("state-dir"),
        help: ArgumentHelp(
            "Where the workspace keeps its control socket and logs (default: /run/workspacekit, or $XDG_RUNTIME_DIR/workspacekit for ordinary users).",
            valueName: "dir"))
    var path: String?

    var directory: StateDirectory {
        if let path { return StateDirectory(Files.absolute(path)) }
        return .standard(environment: environmentByName(), uid: CurrentProcess.effectiveUser)
    }
}

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Bring up a workspace from a .gitpod.yml, and stay until it ends.",
        discussion: """
            With COMMAND, it runs as a foreground job with your terminal; when it ends, the workspace stops in order and
            ends with its status. Without, the workspace runs until it is stopped (SIGTERM, Ctrl-C, workspacekit stop).
            """)

    @Option(
        help: ArgumentHelp("The configuration (default: .gitpod.yml in the workspace directory).", valueName: "file"))
    var config: String?
    @Option(
        help: ArgumentHelp(
            "sandbox: a network of its own; host: the container's; none: lo only.", valueName: "sandbox|host|none"),
        transform: { text in
            guard let mode = NetworkMode(rawValue: text) else {
                throw ValidationError("'\(text)' is no network mode: sandbox, host or none")
            }
            return mode
        })
    var network: NetworkMode?
    @Option(help: ArgumentHelp("The workspace directory (default: the current one).", valueName: "dir"))
    var workspace: String?
    @OptionGroup var state: StateOption
    @Argument(parsing: .postTerminator, help: "A command to run in the workspace, after --.")
    var command: [String] = []

    func run() {
        quit(
            WorkspaceRun(
                configurationFile: config, network: network, workspaceDirectory: workspace ?? ".",
                state: state.directory, command: command
            ).run())
    }
}

/// Connects to the running workspace, or ends with the line that says there is none.
func connect(_ state: StateDirectory) -> ControlClient {
    do { return try ControlClient(state) } catch {
        fail(
            "no workspace runs at \(state.path) (\(error.errno.description)); name another with --state-dir",
            ExitCodes.noSuchWorkspace)
    }
}

/// The answer to a request; ends the program when it is an error.
func require(_ response: ControlResponse?) -> ControlResponse {
    guard let response else { fail("the workspace ended", ExitCodes.noSuchWorkspace) }
    if let error = response.error { fail(error, 1) }
    return response
}

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show what runs in the workspace.")
    @OptionGroup var state: StateOption
    @Flag(help: "As JSON.") var json = false

    func run() {
        guard let status = require(connect(state.directory).ask(ControlRequest(.status))).status else {
            fail("the workspace sent no status", ExitCodes.internalError)
        }
        if json { return print(prettyJSON(status)) }
        let rows = [["NAME", "KIND", "STATE", "PID", "RESTARTS", "EXIT", "DETAIL"]] + status.units.map(row)
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        for row in rows {
            let cells = zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }
            var line = cells.joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            print(line)
        }
    }

    private func row(_ unit: UnitStatus) -> [String] {
        var detail = unit.reason ?? ""
        if unit.state == "running" { detail = unit.uptimeSeconds.map { "up \(seconds($0))" } ?? "" }
        if let next = unit.nextTrySeconds, let delay = unit.backoffSeconds {
            detail += ", next try in \(seconds(next)) (delay \(seconds(delay)))"
        }
        return [
            unit.name, unit.kind, unit.state, unit.pid.map(String.init) ?? "-", String(unit.restarts),
            unit.exitCode.map(String.init) ?? "-", detail,
        ]
    }

    private func seconds(_ value: Double) -> String { "\((value * 10).rounded() / 10) s" }
}

struct Restart: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Stop a task or service and start it again.")
    @OptionGroup var state: StateOption
    @Argument var name: String

    func run() {
        var request = ControlRequest(.restart)
        request.name = name
        _ = require(connect(state.directory).ask(request))
    }
}

struct Stop: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Stop the workspace in order, and wait for its end.")
    @OptionGroup var state: StateOption

    func run() {
        let client = connect(state.directory)
        _ = require(client.ask(ControlRequest(.stop)))
        while client.answer() != nil {}
    }
}

struct Logs: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what tasks and services printed; also after they, or the workspace, ended.")
    @OptionGroup var state: StateOption
    @Flag(name: .shortAndLong, help: "Go on as more is printed, until the workspace ends.") var follow = false
    @Argument(help: "Which; all when none is named.") var names: [String] = []

    func run() {
        let reader = LogReader(state: state.directory, names: names)
        if let problem = reader.problem { fail(problem, 1) }
        reader.printAll()
        if follow { reader.follow() }
    }
}

struct Exec: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Run a program in the workspace.")
    @OptionGroup var state: StateOption
    @Flag(name: .shortAndLong, help: "On a terminal of the workspace's.") var terminal = false
    @Option(name: .shortAndLong, help: "As this user: a name or uid[:gid].") var user: String?
    @Option(name: [.customShort("w"), .long], help: "In this directory.") var directory: String?
    @Option(name: .shortAndLong, help: "With NAME=value in its environment.") var env: [String] = []
    @Argument(parsing: .postTerminator) var command: [String]

    func run() {
        var request = ControlRequest(.exec)
        request.command = command
        request.terminal = terminal
        request.user = user
        request.directory = directory
        request.environment = env
        quit(Int32(RemoteExecution(client: connect(state.directory)).run(request)))
    }
}
