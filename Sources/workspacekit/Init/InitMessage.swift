internal import Kernel
internal import SystemPackage

/// An event in an init's life, and the line that each personality prints for it.
enum InitMessage {
    /// A line about the options.
    case remark(String)
    /// The controlling terminal was given up for the program, or could not be.
    case detached, notDetached
    /// The program has a session of its own.
    case session
    case started(String, pid: Int32)
    case received(Signal)
    /// A signal that follows from giving up the terminal, and is not for the program.
    case handOff(Signal)
    case rewritten(Signal, to: Int32)
    case forwarded(Signal)
    case notForwarded
    /// The terminal's keys suspend the program, and the init with it.
    case suspended
    case ended(pid: Int32, ExitStatus, isProgram: Bool)
    /// An orphan was reaped, where this is asked for.
    case orphan(pid: Int32)
    case leaving(code: UInt8)
    case cannotReap
    case cannotExecute(String, Errno)

    /// The whole line, or nil where the personality does not print it at this verbosity.
    func line(_ personality: InitPersonality, verbosity: Int, process: Int32) -> String? {
        switch personality {
        case .dumbInit:
            if case .cannotExecute(let program, let errno) = self { return "[dumb-init] \(program): \(errno)\n" }
            guard verbosity > 0, let text = dumbInitText else { return nil }
            return "[dumb-init] \(text)\n"
        case .tini, .workspacekit:
            guard let level, verbosity >= level.rawValue else { return nil }
            return personality == .tini ? "[\(level) tini (\(process))] \(text)\n" : "workspacekit init: \(text)\n"
        }
    }

    private enum Level: Int, CustomStringConvertible {
        case fatal, warning, information, debug

        var description: String {
            switch self {
            case .fatal: "FATAL"
            case .warning: "WARN "
            case .information: "INFO "
            case .debug: "DEBUG"
            }
        }
    }

    private var level: Level? {
        switch self {
        case .remark, .detached, .notDetached, .session, .leaving, .notForwarded, .suspended: nil
        case .received(let signal): signal == .child ? .debug : nil
        case .started: .information
        case .handOff, .rewritten, .forwarded: .debug
        case .ended(_, _, let isProgram): isProgram ? .information : .debug
        case .orphan, .cannotReap: .warning
        case .cannotExecute: .fatal
        }
    }

    /// tini's suite looks for "zombie reaping won't work", "Reaped zombie process with pid=" and "Received SIGCHLD".
    private var text: String {
        switch self {
        case .remark, .detached, .notDetached, .session, .leaving, .notForwarded, .suspended: ""
        case .started(let program, let pid): "started \(program) as process \(pid)"
        case .received(let signal): "Received \(signal)"
        case .handOff(let signal): "\(signal) is not passed on: it follows from giving up the terminal"
        case .rewritten(let signal, let number):
            "\(signal) becomes \(number == 0 ? "no signal" : "\(Signal(rawValue: number))")"
        case .forwarded(let signal): "passed \(signal) on"
        case .ended(let pid, let status, let isProgram):
            isProgram ? "the program ended: \(status)" : "reaped process \(pid): \(status)"
        case .orphan(let pid): "Reaped zombie process with pid=\(pid)"
        case .cannotReap:
            "neither PID 1 nor a subreaper (-s or TINI_SUBREAPER): orphans go to another process, "
                + "so zombie reaping won't work"
        case .cannotExecute(let program, let errno): "cannot execute \(program): \(errno)"
        }
    }

    /// dumb-init's suite compares these lines as a whole.
    private var dumbInitText: String? {
        switch self {
        case .remark(let text): text
        case .detached: "Detached from controlling tty, ignoring the first SIGHUP and SIGCONT we receive."
        case .notDetached: "Unable to detach from controlling tty."
        case .session: "setsid complete."
        case .started(_, let pid): "Child spawned with PID \(pid)."
        case .received(let signal): "Received signal \(signal.rawValue)."
        case .handOff(let signal): "Ignoring tty hand-off signal \(signal.rawValue)."
        case .rewritten(let signal, let number): "Translating signal \(signal.rawValue) to \(number)."
        case .forwarded(let signal): "Forwarded signal \(signal.rawValue) to children."
        case .notForwarded: "Not forwarding signal 0 to children (ignored)."
        case .suspended: "Suspending self due to TTY signal."
        case .ended(let pid, .exited(let code), _): "A child with PID \(pid) exited with exit status \(code)."
        case .ended(let pid, .signalled(let signal, _), _):
            "A child with PID \(pid) was terminated by signal \(signal.rawValue)."
        case .leaving(let code): "Child exited with status \(code). Goodbye."
        case .orphan, .cannotReap, .cannotExecute: nil
        }
    }
}
