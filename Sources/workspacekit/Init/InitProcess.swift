internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// An init for any image: it starts one program and is otherwise not noticed. Signals go on to the program (to its group
/// with `-g`), orphans are reaped, and it ends with the program's status. The program finds signals and descriptors as
/// we found them. Nothing is allocated between its start and its end but what a warning says.
struct InitProcess {
    /// The name of the one whose part it plays, for what it says.
    let name: String
    let options: InitOptions

    /// Names by which the binary is called to be an init.
    static func name(in path: String) -> String? {
        let last = path.split(separator: "/").last.map(String.init) ?? ""
        return ["tini", "tini-static", "dumb-init"].contains(last) ? last : nil
    }

    /// Called as `tini` or `dumb-init`, or as `workspacekit init`; the exit code.
    static func main(_ name: String, _ arguments: [String]) -> Int32 {
        let environment = environmentByName()
        let options: InitOptions
        do throws(InitUsageError) {
            options =
                try name == "dumb-init"
                ? InitOptions(dumbInit: arguments, environment: environment)
                : InitOptions(tini: arguments, environment: environment, rewrites: name == "init")
        } catch {
            writeLine("\(name): \(error.message)\n", to: 2)
            writeLine(usage(name), to: 2)
            return name == "init" ? ExitCodes.usage : 1
        }
        switch options.request {
        case .help: writeLine(usage(name), to: 1)
        case .version: writeLine(version(name), to: 1)
        case .license: writeLine("\(name) is workspacekit's, under the MIT licence.\n", to: 1)
        case .run(let program): return Int32(InitProcess(name: name, options: options).run(program))
        }
        return 0
    }

    private static func version(_ name: String) -> String {
        switch name {
        case "tini", "tini-static": "tini version 0.19.0 (workspacekit 0.1.0)\n"
        case "dumb-init": "dumb-init v1.2.5 (workspacekit 0.1.0)\n"
        default: "workspacekit init 0.1.0\n"
        }
    }

    private static func usage(_ name: String) -> String {
        if name == "dumb-init" {
            return """
                usage: dumb-init [-c] [-v] [-r FROM:TO]... PROGRAM [ARGUMENT]...
                  -c, --single-child     signal the program only, not its session
                  -r, --rewrite FROM:TO  send TO when FROM comes; 0 sends nothing
                  -v, --verbose          say what is done
                  -h, --help; -V, --version

                """
        }
        return """
            usage: \(name == "init" ? "workspacekit init" : name) [-gsvw] [-p SIGNAL] [-e CODE]...\(name == "init" ? " [-r FROM:TO]..." : "") [--] PROGRAM [ARGUMENT]...
              -g         signal the program's process group, not the program alone
              -s         be a subreaper, where this is not PID 1
              -w         say which orphans are reaped
              -p SIGNAL  take this signal when the parent dies
              -e CODE    exit with 0 when the program exits with CODE
              -v         say what is done; more with each
              -l         the licence; -h; --version
            \(name == "init" ? "\n  workspacekit init -g -- nginx -g 'daemon off;'\n" : "")
            """
    }

    private func say(_ level: Int, _ text: @autoclosure () -> String) {
        guard options.verbosity >= level else { return }
        writeLine(
            name == "dumb-init"
                ? "[dumb-init] \(text())\n" : "[\(name == "init" ? "workspacekit init" : name)] \(text())\n", to: 2)
    }

    private func run(_ program: [String]) -> UInt8 {
        let inherited = CurrentProcess.blockedSignals
        do {
            if let signal = options.parentDeathSignal { try CurrentProcess.setDeathSignal(signal) }
            if options.isSubreaper { try CurrentProcess.becomeSubreaper() }
            // Those that a fault of our own raises stay as they are.
            let own: [Int32] = [4, 5, 6, 7, 8, 11, 31]
            let signals = try SignalReader(
                (1...64).filter { !own.contains($0) && $0 != 9 && $0 != 19 }.map { Signal(rawValue: $0) })
            if !options.isSubreaper, CurrentProcess.id != 1, name != "dumb-init" {
                say(1, "this is neither PID 1 nor a subreaper (-s): orphans are not reaped")
            }
            guard
                let path = findExecutable(
                    program[0], path: environmentByName()["PATH"] ?? "/usr/local/bin:/usr/bin:/bin")
            else {
                let isThere = Files.status(program[0]) != nil
                writeLine(
                    "\(name): cannot execute \(program[0]): \(isThere ? "Permission denied" : "No such file or directory")\n",
                    to: 2)
                return isThere ? 126 : 127
            }
            // The program's session can have the terminal only when ours has let go of it.
            let gaveUpTerminal = options.newSession && Terminal.isTerminal(0) && Terminal.detach(0)
            let pid = try spawn(plan(path, program, inherited))
            say(2, "started \(program[0]) as process \(pid)")
            return relay(signals, pid, ignoring: gaveUpTerminal ? [.hangup, .resume] : [])
        } catch {
            writeLine("\(name): \(error)\n", to: 2)
            return error.errno == .permissionDenied ? 126 : error.errno == .noSuchFileOrDirectory ? 127 : 1
        }
    }

    private func plan(_ path: String, _ program: [String], _ inherited: UInt64) -> SpawnPlan {
        var plan = SpawnPlan(path: path, arguments: program, environment: currentEnvironment(), descriptors: [])
        plan.inheritedSignalMask = inherited
        let hasTerminal = Terminal.isTerminal(0)
        if name == "dumb-init" {
            plan.newSession = options.newSession
            if options.newSession, hasTerminal { plan.controllingTerminal = 0 }
        } else {
            plan.newGroup = true
            if hasTerminal { plan.foregroundTerminal = 0 }
        }
        return plan
    }

    /// Until the program has ended; its status. Of each ignored signal the first does not go on: they came of our giving up
    /// the terminal.
    private func relay(_ signals: borrowing SignalReader, _ pid: Int32, ignoring: [Signal]) -> UInt8 {
        var ignored = ignoring
        while true {
            _ = waitReadable(signals.number, nil)
            while let (signal, _) = signals.next() {
                if signal == .child { continue }
                if let index = ignored.firstIndex(of: signal) {
                    ignored.remove(at: index)
                    continue
                }
                let sent = options.rewrites[signal.rawValue] ?? signal
                guard let sent else { continue }
                say(3, "\(signal) goes on as \(sent)")
                send(sent, to: options.signalsGroup ? -pid : pid)
                // What suspends the program suspends us, so that whoever waits for us sees it.
                if name == "dumb-init", [20, 21, 22].contains(signal.rawValue) { send(.stop, to: CurrentProcess.id) }
            }
            if let status = reapAll(pid) {
                if options.endsGroup { send(.terminate, to: options.signalsGroup ? -pid : pid) }
                let code = status.code
                return options.successCodes.contains(code) ? 0 : code
            }
        }
    }

    /// Collects whatever has ended; the program's status when it is among them.
    private func reapAll(_ pid: Int32) -> ExitStatus? {
        var ended: ExitStatus?
        while case .ended(let other, let status) = reap() {
            if other == pid {
                ended = status
                say(2, "the program ended: \(status)")
            } else if options.warnsOfOrphans {
                say(0, "Reaped zombie process with pid=\(other)")
            }
        }
        return ended
    }
}
