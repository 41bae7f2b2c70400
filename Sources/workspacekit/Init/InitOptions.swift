internal import Kernel

/// How an init behaves; the same machine serves `workspacekit init`, `tini` and `dumb-init`.
struct InitOptions: Equatable {
    /// What the command line asks for besides running a program.
    enum Request: Equatable {
        case run([String])
        case help
        case version
        case license
    }
    var request = Request.help
    /// Signals go to the program's process group; else to the program alone.
    var signalsGroup = false
    /// The program gets a session, and with it the terminal, of its own; dumb-init's way.
    var newSession = false
    /// Orphans become our children though we are not PID 1.
    var isSubreaper = false
    /// Each orphan that is reaped is told.
    var warnsOfOrphans = false
    /// Sent to us when our parent dies.
    var parentDeathSignal: Signal?
    /// Exit codes that become 0.
    var successCodes: Set<UInt8> = []
    /// Signals that are sent instead of others; nil: not sent at all.
    var rewrites: [Int32: Signal?] = [:]
    /// The group gets SIGTERM when the program has ended.
    var endsGroup = false
    /// What is done is told: 1 warnings, 2 and 3 more.
    var verbosity = 1
}

/// What is wrong with a command line.
struct InitUsageError: Error, Equatable {
    let message: String
}

/// getopt(3)'s way through arguments: clustered letters, values attached or apart, `--`, and the first word that is no
/// option ends them.
private struct OptionReader {
    private var arguments: ArraySlice<String>
    private var cluster: Substring = ""
    private var letter: Character = " "

    init(_ arguments: [String]) { self.arguments = arguments[...] }

    /// What follows the options.
    var rest: [String] { Array(arguments) }

    /// The next option: a letter, or the whole word behind two dashes.
    mutating func next() -> String? {
        if let first = cluster.popFirst() {
            letter = first
            return String(first)
        }
        guard let word = arguments.first, word.hasPrefix("-"), word != "-" else { return nil }
        arguments.removeFirst()
        if word == "--" { return nil }
        if word.hasPrefix("--") { return String(word.dropFirst(2)) }
        cluster = word.dropFirst()
        return next()
    }

    /// The value of the option that came last.
    mutating func value() throws(InitUsageError) -> String {
        defer { cluster = "" }
        if !cluster.isEmpty { return String(cluster) }
        guard let value = arguments.popFirst() else {
            throw InitUsageError(message: "option -\(letter) needs a value")
        }
        return value
    }
}

extension InitOptions {
    /// tini's command line and environment, and `workspacekit init`'s, which has dumb-init's `-r` besides.
    init(tini arguments: [String], environment: [String: String], rewrites allowsRewrites: Bool = false)
        throws(InitUsageError)
    {
        var reader = OptionReader(arguments)
        isSubreaper = environment["TINI_SUBREAPER"] != nil
        signalsGroup = environment["TINI_KILL_PROCESS_GROUP"] != nil
        if let text = environment["TINI_VERBOSITY"] {
            guard let level = Int(text) else { throw InitUsageError(message: "TINI_VERBOSITY is no number: \(text)") }
            verbosity = level
        }
        var asked: Request?
        while let option = reader.next() {
            switch option {
            case "h", "help": asked = .help
            case "version": asked = .version
            case "l": asked = .license
            case "g": signalsGroup = true
            case "s": isSubreaper = true
            case "w": warnsOfOrphans = true
            case "v": verbosity += 1
            case "p":
                let name = try reader.value()
                guard let signal = Signal(name: name) else {
                    throw InitUsageError(message: "not a valid signal for option -p: \(name)")
                }
                parentDeathSignal = signal
            case "e":
                let text = try reader.value()
                guard let code = UInt8(text) else {
                    throw InitUsageError(message: "not a valid exit code for option -e: \(text)")
                }
                successCodes.insert(code)
            case "r" where allowsRewrites: try rewrite(try reader.value())
            default: throw InitUsageError(message: "unknown option \(option.count == 1 ? "-" : "--")\(option)")
            }
        }
        try finish(asked, reader.rest)
    }

    /// dumb-init's command line and environment.
    init(dumbInit arguments: [String], environment: [String: String]) throws(InitUsageError) {
        var reader = OptionReader(arguments)
        newSession = environment["DUMB_INIT_SETSID"] != "0"
        verbosity = environment["DUMB_INIT_DEBUG"] == "1" ? 3 : 0
        var asked: Request?
        while let option = reader.next() {
            switch option {
            case "h", "help": asked = .help
            case "V", "version": asked = .version
            case "c", "single-child": newSession = false
            case "v", "verbose": verbosity = 3
            case "r", "rewrite": try rewrite(try reader.value())
            case _ where option.hasPrefix("rewrite="): try rewrite(String(option.dropFirst(8)))
            default: throw InitUsageError(message: "unknown option \(option.count == 1 ? "-" : "--")\(option)")
            }
        }
        signalsGroup = newSession
        endsGroup = true
        // Without a shell above it nothing could resume what the terminal's keys suspend; stopped is stopped.
        if newSession {
            for signal in [Signal.terminalStop, .terminalInput, .terminalOutput] where rewrites[signal.rawValue] == nil
            {
                rewrites[signal.rawValue] = .some(.stop)
            }
        }
        try finish(asked, reader.rest)
    }

    private mutating func finish(_ asked: Request?, _ program: [String]) throws(InitUsageError) {
        if let asked {
            request = asked
        } else if program.isEmpty {
            throw InitUsageError(message: "no program is named")
        } else {
            request = .run(program)
        }
    }

    /// `FROM:TO`, numbers or names; 0 is no signal at all.
    private mutating func rewrite(_ text: String) throws(InitUsageError) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 2, let from = Signal(name: parts[0]), parts[1] == "0" || Signal(name: parts[1]) != nil
        else {
            throw InitUsageError(
                message:
                    "not a valid signal rewrite: \(text) (it looks like 15:3 or TERM:QUIT; 0 as the second is none)")
        }
        rewrites[from.rawValue] = .some(Signal(name: parts[1]))
    }
}
