internal import Kernel

/// The program whose part the init plays: its command line, its environment variables and its messages.
enum InitPersonality: Equatable {
    /// `workspacekit init`.
    case workspacekit
    case tini, dumbInit

    /// The personality for the name by which the binary was called; nil for other names.
    init?(calledBy path: String) {
        switch path.split(separator: "/").last {
        case "tini", "tini-static": self = .tini
        case "dumb-init": self = .dumbInit
        default: return nil
        }
    }
}

/// How an init behaves; one machine serves `workspacekit init`, `tini` and `dumb-init`.
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
    /// Lines about the options themselves, for ``verbosity`` 3.
    var remarks: [String] = []
}

/// The reason that a command line cannot be used.
enum InitUsageError: Error, Equatable {
    /// A word that is no option, or lacks its value.
    case option(OptionError)
    /// A value that an option does not take.
    case value(String)
    /// dumb-init's `-r`.
    case rewrite
    /// No program is named.
    case noProgram
}

extension InitOptions {
    private enum Option: Equatable, Sendable {
        case help, version, license, group, subreaper, orphans, verbose, deathSignal, successCode, singleChild, rewrite
    }
    private typealias Form = OptionReader<Option>.Form

    private static let tiniForms: [Form] = [
        Form(option: .help, letter: "h", name: "help"), Form(option: .version, name: "version"),
        Form(option: .license, letter: "l"), Form(option: .group, letter: "g"), Form(option: .subreaper, letter: "s"),
        Form(option: .orphans, letter: "w"), Form(option: .verbose, letter: "v"),
        Form(option: .deathSignal, letter: "p", takesValue: true),
        Form(option: .successCode, letter: "e", takesValue: true),
    ]
    private static let dumbInitForms: [Form] = [
        Form(option: .help, letter: "h", name: "help"), Form(option: .singleChild, letter: "c", name: "single-child"),
        Form(option: .rewrite, letter: "r", name: "rewrite", takesValue: true),
        Form(option: .verbose, letter: "v", name: "verbose"), Form(option: .version, letter: "V", name: "version"),
    ]

    init(_ personality: InitPersonality, _ arguments: [String], environment: [String: String])
        throws(InitUsageError)
    {
        var forms = personality == .dumbInit ? Self.dumbInitForms : Self.tiniForms
        if personality == .workspacekit { forms.append(Form(option: .rewrite, letter: "r", takesValue: true)) }
        var reader = OptionReader(arguments, forms)
        try readEnvironment(personality, environment)
        var program: [String] = []
        var asked: Request?
        while true {
            let word: OptionReader<Option>.Word?
            do throws(OptionError) { word = try reader.next() } catch { throw .option(error) }
            guard case .option(let option, let value)? = word else {
                if case .operand(let first)? = word { program = [first] }
                break
            }
            switch option {
            case .help: asked = asked ?? .help
            case .version: asked = asked ?? .version
            case .license: asked = asked ?? .license
            case .rewrite where personality == .dumbInit: try rewriteNumbers(value)
            default: try set(option, value, personality)
            }
        }
        program += reader.rest
        if personality == .dumbInit { finishDumbInit() }
        if let asked {
            request = asked
        } else if program.isEmpty {
            throw .noProgram
        } else {
            request = .run(program)
        }
    }

    private mutating func readEnvironment(_ personality: InitPersonality, _ environment: [String: String])
        throws(InitUsageError)
    {
        if personality == .dumbInit {
            newSession = true
            verbosity = 0
            if environment["DUMB_INIT_DEBUG"] == "1" {
                verbosity = 3
                remarks.append("Running in debug mode.")
            }
            if environment["DUMB_INIT_SETSID"] == "0" {
                newSession = false
                remarks.append("Not running in setsid mode.")
            }
            return
        }
        isSubreaper = environment["TINI_SUBREAPER"] != nil
        signalsGroup = environment["TINI_KILL_PROCESS_GROUP"] != nil
        if let text = environment["TINI_VERBOSITY"] {
            guard let level = Int(text) else { throw .value("TINI_VERBOSITY is no number: \(text)") }
            verbosity = level
        }
    }

    private mutating func set(_ option: Option, _ value: String, _ personality: InitPersonality) throws(InitUsageError)
    {
        switch option {
        case .group: signalsGroup = true
        case .subreaper: isSubreaper = true
        case .orphans: warnsOfOrphans = true
        case .verbose: verbosity = personality == .dumbInit ? 3 : verbosity + 1
        case .singleChild: newSession = false
        case .deathSignal:
            guard let signal = Signal(name: value) else {
                throw .value("not a valid signal for option -p: \(value)")
            }
            parentDeathSignal = signal
        case .successCode:
            guard let code = UInt8(value) else { throw .value("not a valid exit code for option -e: \(value)") }
            successCodes.insert(code)
        case .rewrite: try rewriteNames(value)
        case .help, .version, .license: break
        }
    }

    private mutating func finishDumbInit() {
        signalsGroup = newSession
        endsGroup = true
        // Without a shell above it nothing could resume what the terminal's keys suspend; stopped is stopped.
        guard newSession else { return }
        for signal in [Signal.terminalStop, .terminalInput, .terminalOutput] where rewrites[signal.rawValue] == nil {
            rewrites[signal.rawValue] = .some(.stop)
        }
    }

    /// dumb-init's `SIGNUM:SIGNUM`, both numbers up to 31, as sscanf(3) reads them; 0 sends no signal.
    private mutating func rewriteNumbers(_ text: String) throws(InitUsageError) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, let from = Int32(parts[0].drop { $0 == " " }),
            let to = Int32(parts[1].drop { $0 == " " }.prefix { $0.isASCII && ($0.isNumber || $0 == "+") }),
            (1...31).contains(from), (0...31).contains(to)
        else { throw .rewrite }
        rewrites[from] = .some(to == 0 ? nil : Signal(rawValue: to))
    }

    /// `FROM:TO`, numbers or names; 0 sends no signal.
    private mutating func rewriteNames(_ text: String) throws(InitUsageError) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 2, let from = Signal(name: parts[0]), parts[1] == "0" || Signal(name: parts[1]) != nil
        else {
            throw .value(
                "not a valid signal rewrite: \(text) (it looks like 15:3 or TERM:QUIT; 0 as the second is none)")
        }
        rewrites[from.rawValue] = .some(Signal(name: parts[1]))
    }
}
