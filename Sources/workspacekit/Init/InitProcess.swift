internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// An init for any image: it starts one program and is otherwise not noticed. Signals go on to the program (to its group
/// with `-g`), orphans are reaped, and it ends with the program's status. The program finds signals and descriptors as
/// we found them. Nothing is allocated between its start and its end but what a warning says.
struct InitProcess {
    private let personality: InitPersonality
    private let options: InitOptions
    private let errors = StandardOutput(2, name: "standard error")

    /// Called as `tini` or `dumb-init`, or as `workspacekit init`; the exit code.
    static func main(_ personality: InitPersonality, calledAs program: String, _ arguments: [String]) -> Int32 {
        let options: InitOptions
        do throws(InitUsageError) {
            options = try InitOptions(personality, arguments, environment: environmentByName())
        } catch {
            writeLine(personality.complaint(error, program), to: 2)
            return personality == .workspacekit ? ExitCodes.usage : 1
        }
        // dumb-init says it on standard error.
        let answers: Int32 = personality == .dumbInit ? 2 : 1
        switch options.request {
        case .help: writeLine(personality.usage(program), to: answers)
        case .version: writeLine(personality.version, to: answers)
        case .license: writeLine(InitPersonality.license, to: answers)
        case .run(let program):
            return Int32(InitProcess(personality: personality, options: options).run(program))
        }
        return 0
    }

    private func say(_ message: InitMessage) {
        if let line = message.line(personality, verbosity: options.verbosity, process: CurrentProcess.id) {
            // A reader that has paused must not keep signals from the program.
            errors.append(line)
            errors.flush()
        }
    }

    private func run(_ program: [String]) -> UInt8 {
        for remark in options.remarks { say(.remark(remark)) }
        let inherited = CurrentProcess.blockedSignals
        do {
            if let signal = options.parentDeathSignal { try CurrentProcess.setDeathSignal(signal) }
            if options.isSubreaper { try CurrentProcess.becomeSubreaper() }
            // KERNEL: a fault of our own ends the process though its signal is blocked; one that is sent waits here.
            let signals = try SignalReader(
                (1...64).filter { $0 != Signal.kill.rawValue && $0 != Signal.stop.rawValue }.map {
                    Signal(rawValue: $0)
                })
            if CurrentProcess.id != 1, !CurrentProcess.isSubreaper { say(.cannotReap) }
            // The program's session can have the terminal only when ours has let go of it.
            let gaveUpTerminal = options.newSession && Terminal.isTerminal(0) && Terminal.detach(0)
            if options.newSession { say(gaveUpTerminal ? .detached : .notDetached) }
            let pid = try spawn(plan(program, inherited)) { _ in
                // The program waits in its own directory; we keep none busy. tini stays where it was started.
                if personality != .tini { try? CurrentProcess.changeDirectory("/") }
            }
            if options.newSession { say(.session) }
            say(.started(program[0], pid: pid))
            return relay(signals, pid, ignoring: gaveUpTerminal ? [.hangup, .resume] : [])
        } catch {
            say(.cannotExecute(program[0], error.errno))
            return exitCode(error)
        }
    }

    private func exitCode(_ error: KernelError) -> UInt8 {
        if error.isShortage { return 1 }
        if personality == .dumbInit { return 2 }
        // tini has the shell's codes for two reasons only.
        let isTold = error.errno == .noSuchFileOrDirectory || error.errno == .permissionDenied
        return personality == .tini && !isTold ? 1 : error.shellCode
    }

    private func plan(_ program: [String], _ inherited: UInt64) -> SpawnPlan {
        var plan = SpawnPlan(command: program, environment: currentEnvironment())
        plan.searchPath = environmentByName()["PATH"] ?? "/bin:/usr/bin"  // as execvp(3) without PATH
        plan.runsScripts = true
        plan.inheritedSignalMask = inherited
        let hasTerminal = Terminal.isTerminal(0)
        if personality == .dumbInit {
            plan.newSession = options.newSession
            if options.newSession, hasTerminal { plan.controllingTerminal = 0 }
        } else {
            plan.newGroup = true
            if hasTerminal { plan.foregroundTerminal = 0 }
        }
        return plan
    }

    /// Passes signals on until the program has ended; its status. Of each ignored signal the first does not go on: it
    /// came of giving up the terminal.
    private func relay(_ signals: borrowing SignalReader, _ pid: Int32, ignoring: [Signal]) -> UInt8 {
        var ignored = ignoring
        while true {
            _ = waitReadable(signals.number, nil)
            while let (signal, sender) = signals.next() {
                // Our own: standard error has no reader any more. Passed on and told, it would raise the next one.
                if signal == .pipe, sender == CurrentProcess.id { continue }
                say(.received(signal))
                if let index = ignored.firstIndex(of: signal) {
                    ignored.remove(at: index)
                    say(.handOff(signal))
                    continue
                }
                if signal == .child { continue }
                forward(signal, to: pid)
                // What suspends the program suspends us, so that the caller who waits for us sees it.
                if personality == .dumbInit, [.terminalStop, .terminalInput, .terminalOutput].contains(signal) {
                    say(.suspended)
                    send(.stop, to: CurrentProcess.id)
                }
            }
            if let status = reapAll(pid) {
                let code = status.code
                if options.endsGroup {
                    forward(.terminate, to: pid)
                    say(.leaving(code: code))
                }
                return options.successCodes.contains(code) ? 0 : code
            }
        }
    }

    private func forward(_ signal: Signal, to pid: Int32) {
        var sent: Signal? = signal
        if let rewritten = options.rewrites[signal.rawValue] {
            sent = rewritten
            say(.rewritten(signal, to: rewritten?.rawValue ?? 0))
        }
        guard let sent else { return say(.notForwarded) }
        send(sent, to: options.signalsGroup ? -pid : pid)
        say(.forwarded(sent))
    }

    /// Collects the processes that have ended; the program's status when it is among them.
    private func reapAll(_ pid: Int32) -> ExitStatus? {
        var ended: ExitStatus?
        while case .ended(let other, let status) = reap() {
            say(.ended(pid: other, status, isProgram: other == pid))
            if other == pid {
                ended = status
            } else if options.warnsOfOrphans {
                say(.orphan(pid: other))
            }
        }
        return ended
    }
}
