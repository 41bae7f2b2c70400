internal import ArgumentParser
internal import Config
internal import Control
internal import Glibc
internal import Kernel
internal import Ring
internal import Supervisor
internal import SystemPackage

struct WorkspacekitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "workspacekit",
        abstract: "A workspace with its own users, mounts, processes and network, inside an ordinary container.",
        version: Version.current,
        subcommands: [
            Run.self, Prebuild.self, Status.self, Start.self, Stop.self, Restart.self, SendSignal.self, Wait.self,
            Logs.self, Events.self, Top.self, Attach.self, Exec.self, Ports.self, Net.self, Metrics.self, Validate.self,
            Graph.self,
            Plan.self, Reload.self, DoctorCommand.self, ShiftRootCommand.self,
            Configuration.self, Completions.self, Init.self, VersionCommand.self,
        ])
}

struct StateOption: ParsableArguments {
    @Option(
        name: .customLong("state-dir"),
        help: ArgumentHelp(
            "Where the workspace keeps its control socket and logs (default: /run/workspacekit, or $XDG_RUNTIME_DIR/workspacekit for ordinary users).",
            valueName: "dir"), completion: .directory)
    var path: String?

    var directory: StateDirectory {
        if let path { return StateDirectory(Files.absolute(path)) }
        let environment = environmentByName()
        if environment["WORKSPACEKIT_STATE_DIR"] == nil,
            let own = StateDirectory.ofCommand(executedAs: CurrentProcess.executedPath)
        {
            return own
        }
        return .standard(environment: environment, uid: CurrentProcess.effectiveUser)
    }
}

/// What every way to bring up a workspace is given.
struct WorkspaceOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("The configuration (default: .gitpod.yml in the workspace directory).", valueName: "file"),
        completion: .file())
    var config: String?
    @Option(
        help: ArgumentHelp(
            "sandbox: a network of its own; host: the container's; none: lo only.", valueName: "sandbox|host|none"),
        completion: .list(["sandbox", "host", "none"]),
        transform: { text in
            guard let mode = NetworkMode(rawValue: text) else {
                throw ValidationError("'\(text)' is no network mode: sandbox, host or none")
            }
            return mode
        })
    var network: NetworkMode?
    @Option(
        help: ArgumentHelp(
            "What may not be given up where the container allows less: full, masked, shared-pid, or supervise-only (default), which gives up all but supervision.",
            valueName: "mode"),
        completion: .list(Isolation.allCases.map(\.rawValue)),
        transform: { text in
            guard let isolation = Isolation(rawValue: text) else {
                throw ValidationError("'\(text)' is no mode: full, masked, shared-pid or supervise-only")
            }
            return isolation
        })
    var require: Isolation?
    @Flag(
        help:
            "Where root inside is the machine's root: let it write /proc/sys, /sys and cgroups, and run containers. It can then change the machine."
    )
    var allowMachineRoot = false
    @Option(
        help: ArgumentHelp("The workspace directory (default: the current one).", valueName: "dir"),
        completion: .directory)
    var workspace: String?
    @OptionGroup var state: StateOption

    func run(_ command: [String] = [], _ start: StartKind = .run) {
        quit(
            WorkspaceRun(
                configurationFile: config, network: network, workspaceDirectory: workspace ?? ".",
                state: state.directory, command: command, start: start, leastIsolation: require ?? .superviseOnly,
                allowsMachineRoot: allowMachineRoot
            ).run())
    }
}

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Bring up a workspace from a .gitpod.yml, and stay until it ends.",
        discussion: """
            With COMMAND, it runs as a foreground job with your terminal; when it ends, the workspace stops in order and
            ends with its status. Without, the workspace runs until it is stopped (SIGTERM, Ctrl-C, workspacekit stop).

              workspacekit run
              workspacekit run --network none -- make test
            """, aliases: ["up"])
    @OptionGroup var options: WorkspaceOptions
    @Argument(parsing: .postTerminator, help: "A command to run in the workspace, after --.")
    var command: [String] = []

    func run() { options.run(command) }
}

struct Prebuild: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run before, init and prebuild of every task, and say what became of each.",
        discussion: """
            In the order of depends_on, with the services that run beside them; the workspace ends with its tasks. A later
            run goes on with before and command. Exit code 0, or 1 when a task failed or could not run.

              workspacekit prebuild --json >prebuild.json
            """)
    @OptionGroup var options: WorkspaceOptions
    @Flag(help: "The summary as JSON on standard output; what tasks print is in their logs.") var json = false

    func run() { options.run([], json ? .prebuildJSON : .prebuild) }
}

struct Init: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run one program as an init for any image: signals go on to it, orphans are reaped.",
        discussion: """
            Called as tini or dumb-init it takes their command lines and environment variables. See "workspacekit init -h".

              ENTRYPOINT ["workspacekit", "init", "-g", "--"]
            """)
    @Argument(parsing: .captureForPassthrough) var arguments: [String] = []

    func run() { quit(InitProcess.main(.workspacekit, calledAs: "workspacekit init", arguments)) }
}

/// Connects to the running workspace, or ends with the line that says there is none.
func connect(_ state: StateDirectory) -> ControlClient {
    do { return try ControlClient(state) } catch {
        if error.errno == .notPermitted {
            do { _ = try state.open(ownedBy: [CurrentProcess.effectiveUser, 0]) } catch {
                fail("\(error)", ExitCodes.noSuchWorkspace)
            }
        }
        fail(
            "no workspace runs at \(state.path) (\(error.errno.description)); name another with --state-dir",
            ExitCodes.noSuchWorkspace)
    }
}

/// The answer to a request; ends the program when it is an error.
func require(_ response: ControlResponse?) -> ControlResponse {
    guard let response else { fail("the workspace ended", ExitCodes.noSuchWorkspace) }
    if let error = response.error { fail(error, response.exitCode.map { Int32($0) } ?? 1) }
    return response
}

struct Metrics: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print what there is to measure in Prometheus' text format.",
        discussion: """
            For the textfile collector of node_exporter, or anything else that reads the format. The same is at /metrics of
            metrics.sock in the state directory (http+unix).

              workspacekit metrics >w.new && mv w.new /var/lib/node_exporter/w.prom
              curl --unix-socket /run/workspacekit/metrics.sock http://localhost/metrics
            """)
    @OptionGroup var state: StateOption

    func run() {
        print(require(connect(state.directory).ask(ControlRequest(.metrics))).text ?? "", terminator: "")
    }
}

/// A duration on the command line.
func duration(_ text: String) throws -> Duration {
    guard let duration = parseDuration(text) else { throw ValidationError("'\(text)' is no duration such as 30s") }
    return duration
}

/// A moment on the command line: so long ago, or a time.
func instant(_ text: String) throws -> WallInstant {
    if let duration = parseDuration(text) { return WallInstant.now - duration }
    guard let time = WallInstant(text) else {
        throw ValidationError("'\(text)' is neither a duration such as 10m nor a time such as 2026-01-31T12:00:00Z")
    }
    return time
}

struct Logs: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what tasks and services printed; also after they, or the workspace, ended.",
        discussion: """
            Of the workspace that runs or ran last; --all adds units of those before it, whose logs are still there. A unit
            that is named is shown in any case.

              workspacekit logs -f web
              workspacekit logs --since 10m -n 100
              workspacekit logs --json | jq -r 'select(.unit == "web").line'
            """)
    @OptionGroup var state: StateOption
    @Flag(name: .shortAndLong, help: "Go on as more is printed, until the workspace ends.") var follow = false
    @Option(name: [.customShort("n"), .customLong("tail")], help: "Only the last so many lines of each.") var last: Int?
    @Option(
        help: ArgumentHelp("Nothing older: so long ago (10m, 1h30m), or a time (RFC 3339).", valueName: "time"),
        transform: instant)
    var since: WallInstant?
    @Flag(name: .shortAndLong, help: "With the time before each line.") var timestamps = false
    @Flag(help: "One JSON object a line: time, unit, line.") var json = false
    @Flag(help: "Units of earlier workspaces in this state directory too.") var all = false
    @Argument(help: "Which; all of the workspace when none is named.", completion: .units) var names: [String] = []

    func validate() throws {
        if let last, last < 0 { throw ValidationError("a number of lines is not negative") }
    }

    func run() {
        ignore(.pipe)
        let style = LogStyle(hasTimes: timestamps, isJSON: json, isForTerminal: Terminal.isTerminal(1))
        let reader = LogReader(state: state.directory, names: names, style: style, all: all)
        if let problem = reader.problem { fail(problem, 1) }
        let ends = reader.ends()
        reader.printAll(last: last, since: since, until: ends)
        if follow { reader.follow(from: ends) }
    }
}

struct Exec: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a program in the workspace.",
        discussion: """
            Ends with its status; 127 when there is no such program, 126 when it cannot be run. Options stand before the
            program; what follows it is its own, with or without -- before it.

              workspacekit exec ls -la
              workspacekit exec -it bash
              workspacekit exec -t -u gitpod -w /workspace -e TERM=xterm -- bash
            """)
    @OptionGroup var state: StateOption
    @Flag(
        name: [.customShort("t"), .customLong("terminal"), .customLong("tty")],
        help: "Run it on a terminal of the workspace's.") var terminal = false
    @Flag(
        name: [.customShort("i"), .customLong("interactive"), .customLong("stdin")],
        help: "Taken as docker and kubectl write it: standard input is always the program's.") var interactive = false
    @Option(name: .shortAndLong, help: "Run it as this user: a name or uid[:gid].") var user: String?
    @Option(
        name: [.customShort("w"), .customLong("directory"), .customLong("workdir")],
        help: "Run it in this directory.", completion: .directory) var directory: String?
    @Option(
        name: .shortAndLong,
        help: ArgumentHelp(
            "Set a variable in its environment; NAME alone takes the value from here.", valueName: "NAME=value"))
    var env: [String] = []
    @Argument(parsing: .captureForPassthrough, help: "The program and its arguments.") var command: [String]

    mutating func validate() throws {
        if command.first == "--" {
            command.removeFirst()
        } else if let option = command.first, option.hasPrefix("-") {
            if ["-h", "--help", "-help"].contains(option) { throw CleanExit.helpRequest(self) }
            throw ValidationError("Unknown option '\(option)'")
        }
        guard !command.isEmpty else { throw ValidationError("Missing expected argument '<command> ...'") }
    }

    func run() {
        var request = ControlRequest(.exec)
        request.command = command
        request.terminal = terminal
        request.user = user
        request.directory = directory
        let own = environmentByName()
        request.environment = env.compactMap { variable in
            variable.contains("=") ? variable : own[variable].map { "\(variable)=\($0)" }
        }
        quit(Int32(RemoteExecution(client: connect(state.directory)).run(request)))
    }
}
