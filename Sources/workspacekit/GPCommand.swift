internal import ArgumentParser
internal import Control
internal import Glibc
internal import Kernel
internal import SystemPackage

/// Called as `gp`: Gitpod's command line inside a workspace, as far as it makes sense without Gitpod. What cannot be done
/// here says why in one line and ends with 1.
struct GPCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gp", abstract: "Gitpod's commands inside a workspace.",
        version: WorkspacekitCommand.configuration.version,
        subcommands: [
            SyncDone.self, SyncAwait.self, URL.self, Ports.self, AwaitPort.self, Preview.self, Open.self, Env.self,
            Tasks.self, Info.self, Validate.self, Init.self, Stop.self, Version.self, Timeout.self, Snapshot.self,
            Top.self,
        ])

    /// Whether the program was called so.
    static func isCalled(_ path: String) -> Bool { path.split(separator: "/").last == "gp" }

    struct SyncDone: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Let go on who waits for NAME.")
        @OptionGroup var state: StateOption
        @Argument var name: String

        func run() { ask(.syncDone, [name], state.directory) }
    }

    struct SyncAwait: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Wait until somebody has called sync-done NAME.",
            discussion: """
                The task whose text has that call may also end, or this start may leave out its init: then it is over too,
                with exit code 1 if the task failed.
                """)
        @OptionGroup var state: StateOption
        @Argument var name: String

        func run() { ask(.syncAwait, [name], state.directory) }
    }

    struct URL: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "url", abstract: "Print the URL of a port, or of the workspace.",
            discussion: "With GITPOD_WORKSPACE_URL set, that host with the port before it; else http://localhost:PORT.")
        @Argument var port: UInt16?

        func run() { print(Self.url(port, environmentByName()["GITPOD_WORKSPACE_URL"])) }

        static func url(_ port: UInt16?, _ workspace: String?, scheme: String = "http") -> String {
            guard let workspace, !workspace.isEmpty else {
                return "\(scheme)://localhost" + (port.map { ":\($0)" } ?? "")
            }
            guard let port else { return workspace }
            let parts = workspace.split(separator: "/", omittingEmptySubsequences: false)
            let (scheme, host) = parts.count >= 3 ? (String(parts[0]), parts[2]) : ("https:", parts[0])
            return "\(scheme)//\(port)-\(host)"
        }
    }

    struct Ports: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show ports, and wait for one.",
            subcommands: [List.self, workspacekit.Ports.Await.self, Expose.self])

        struct List: ParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Show the ports that are served or declared.")
            @OptionGroup var state: StateOption
            @Flag(help: "As JSON.") var json = false
            @Flag(inversion: .prefixedNo, help: .hidden) var color = true

            func run() {
                let ports = require(connect(state.directory).ask(ControlRequest(.ports))).ports ?? []
                if json { return print(prettyJSON(ports)) }
                let workspace = environmentByName()["GITPOD_WORKSPACE_URL"]
                let shown = ports.filter { $0.transport == "tcp" }.map { port in
                    [
                        "\(port.port)", port.isListening ? "open" : "not served",
                        port.protocol.map { URL.url(port.port, workspace, scheme: $0) } ?? "-", port.name ?? "",
                    ]
                }
                printTable([["PORT", "STATUS", "URL", "NAME"]] + shown)
            }
        }

        struct Expose: ParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Not needed here.")
            @Argument(parsing: .captureForPassthrough) var arguments: [String] = []
            func run() {
                fail(
                    "gp ports expose: declare the port in .gitpod.yml (ports:): servers on localhost are reached too", 1
                )
            }
        }
    }

    struct AwaitPort: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "The same as ports await.")
        @OptionGroup var command: workspacekit.Ports.Await
        func run() { command.run() }
    }

    struct Preview: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Open a URL with the program that BROWSER names.")
        @Argument var url: String
        @Flag(help: .hidden) var external = false
        func run() { open(url, with: "BROWSER", "gp preview: no browser here: open \(url) in yours (or set BROWSER)") }
    }

    struct Open: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Open files with the program that VISUAL names.")
        @Flag(name: .shortAndLong, help: .hidden) var wait = false
        @Argument var files: [String]
        func run() {
            for file in files {
                open(file, with: "VISUAL", "gp open: no editor here: open \(file) in yours (or set VISUAL)")
            }
        }
    }

    struct Env: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show, set or unset variables that are kept for what is started later.",
            discussion: """
                For tasks, services and exec of the same user, now and at later starts of this workspace.

                  gp env EDITOR=vim
                  eval $(gp env -e EDITOR=vim)
                  gp env -u EDITOR
                """)
        @OptionGroup var state: StateOption
        @Flag(name: .shortAndLong, help: "Print export commands, for the shell that calls.") var export = false
        @Flag(name: .shortAndLong, help: "Unset those that are named.") var unset = false
        @Option(name: .shortAndLong, help: .hidden) var scope: String?
        @Argument(help: "NAME=value, or NAME with --unset.") var variables: [String] = []

        func run() {
            var request = ControlRequest(.variables)
            if unset { request.names = variables } else { request.environment = variables }
            let kept = require(connect(state.directory).ask(request)).variables ?? []
            if unset {
                for name in variables where export { print("unset \(name)") }
                return
            }
            let shown = variables.isEmpty ? kept : variables
            for variable in shown {
                let parts = variable.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                let (name, value) = (parts[0], parts.dropFirst().first ?? "")
                let quoted =
                    "'" + value.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
                print(export ? "export \(name)=\(quoted)" : variable)
            }
        }
    }

    struct Tasks: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Look after tasks.", subcommands: [List.self, Attach.self, StopTasks.self, Restart.self],
            defaultSubcommand: List.self)

        struct List: ParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Show the tasks.")
            @OptionGroup var state: StateOption
            @Flag(inversion: .prefixedNo, help: .hidden) var color = true
            func run() {
                let units = require(connect(state.directory).ask(ControlRequest(.status))).status?.units ?? []
                let rows = units.filter { $0.kind == "task" }.map {
                    [$0.name, $0.state, $0.pid.map { "\($0)" } ?? "-"]
                }
                printTable([["NAME", "STATE", "PID"]] + rows)
            }
        }

        struct Attach: ParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Connect to a task's terminal, or follow what it prints where it has none.")
            @OptionGroup var state: StateOption
            @Argument var name: String
            func run() {
                let units = require(connect(state.directory).ask(ControlRequest(.status))).status?.units ?? []
                if units.first(where: { $0.name == name })?.hasTerminal == true {
                    quit(Int32(Attachment(client: connect(state.directory), name: name).run()))
                }
                ignore(.pipe)
                let reader = LogReader(
                    state: state.directory, names: [name], style: LogStyle(hasTimes: false, isJSON: false))
                if let problem = reader.problem { fail(problem, 1) }
                let ends = reader.ends()
                reader.printAll(last: nil, since: nil, until: ends)
                reader.follow(from: ends)
            }
        }

        struct StopTasks: ParsableCommand {
            static let configuration = CommandConfiguration(commandName: "stop", abstract: "Stop tasks.")
            @OptionGroup var state: StateOption
            @Flag(name: .shortAndLong, help: "All tasks.") var all = false
            @Flag(name: .shortAndLong, help: .hidden) var force = false
            @Argument var names: [String] = []
            func run() {
                var names = names
                if all {
                    let units = require(connect(state.directory).ask(ControlRequest(.status))).status?.units ?? []
                    names = units.filter { $0.kind == "task" }.map(\.name)
                }
                guard !names.isEmpty else { fail("gp tasks stop: name a task, or --all", 1) }
                ask(.stop, names, state.directory, force: true)
            }
        }
    }

    struct Info: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show what this workspace is.")
        @OptionGroup var state: StateOption
        @Flag(name: .shortAndLong, help: "As JSON.") var json = false

        private struct Facts: Encodable {
            let workspaceUrl: String
            let stateDirectory: String
            let state: String
            let tasks: Int, services: Int
        }

        func run() {
            guard let status = require(connect(state.directory).ask(ControlRequest(.status))).status else {
                fail("the workspace sent no status", ExitCodes.internalError)
            }
            func count(_ kind: String) -> Int { status.units.filter { $0.kind == kind }.count }
            let facts = Facts(
                workspaceUrl: URL.url(nil, environmentByName()["GITPOD_WORKSPACE_URL"]),
                stateDirectory: state.directory.path, state: status.state, tasks: count("task"),
                services: count("service"))
            if json { return print(prettyJSON(facts)) }
            printTable([
                ["Workspace URL", facts.workspaceUrl], ["State", facts.state], ["Tasks", "\(facts.tasks)"],
                ["Services", "\(facts.services)"], ["State directory", facts.stateDirectory],
            ])
        }
    }

    struct Init: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Write a first .gitpod.yml.")
        @Flag(name: .shortAndLong, help: .hidden) var interactive = false
        @OptionGroup var command: Configuration.Init
        func run() { command.run() }
    }

    struct Version: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Print the version.")
        func run() { print(WorkspacekitCommand.configuration.version) }
    }

    struct Timeout: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Not possible here.")
        @Argument(parsing: .captureForPassthrough) var arguments: [String] = []
        func run() { fail("gp timeout: nothing stops this workspace for being idle", 1) }
    }

    struct Snapshot: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Not possible here.")
        @Argument(parsing: .captureForPassthrough) var arguments: [String] = []
        func run() { fail("gp snapshot: nothing here can take one: use what the container's volume offers", 1) }
    }

    struct Top: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what the workspace uses of its processors and memory.")
        @OptionGroup var state: StateOption
        @Flag(name: .shortAndLong, help: "As JSON.") var json = false

        private struct Resource: Encodable { let used: Double, limit: Double }
        private struct Facts: Encodable { let resources: [String: Resource] }

        func run() {
            let client = connect(state.directory)
            var screen = TopScreen()
            screen.take(workspacekit.Top.sample(client))
            pause(.seconds(1))
            screen.take(workspacekit.Top.sample(client))
            // As Gitpod has them: thousandths of a processor, and bytes.
            let processors = screen.rows.map(\.processorPercent).reduce(0, +) * 10
            let memory = screen.rows.map { Double($0.memoryBytes) }.reduce(0, +)
            let limits = MachineLimits.current
            if json {
                return print(
                    prettyJSON(
                        Facts(resources: [
                            "cpu": Resource(used: processors.rounded(), limit: Double(limits.processors * 1000)),
                            "memory": Resource(used: memory, limit: Double(limits.memoryBytes)),
                        ])))
            }
            printTable([
                ["CPU (millicores)", "\(Int(processors.rounded())) of \(limits.processors * 1000)"],
                ["Memory", "\(TopScreen.bytes(memory)) of \(TopScreen.bytes(Double(limits.memoryBytes)))"],
            ])
        }
    }
}

/// Runs the program that a variable names, with one more argument; ends with 1 and a line without it.
private func open(_ subject: String, with variable: String, _ otherwise: String) {
    let environment = currentEnvironment()
    let words = (environmentByName()[variable] ?? "").split(separator: " ").map(String.init)
    guard let name = words.first, findExecutable(name, path: environmentByName()["PATH"] ?? "") != nil else {
        fail(otherwise, 1)
    }
    do {
        let signals = try SignalReader([.child])
        let pid = try spawn(
            SpawnPlan(command: words + [subject], environment: environment, descriptors: [0, 1, 2]))
        while true {
            if case .ended(_, let status) = reap(pid) {
                if !status.isSuccess { quit(Int32(status.code)) }
                return
            }
            _ = waitReadable(signals.number, nil)
            while signals.next() != nil {}
        }
    } catch { fail("\(error)", 1) }
}
