internal import Kernel
internal import TerminalText

/// # Theory of operation
///
/// The supervisor's standard output (units' lines with their names) and standard error (notices). Lines are collected during a
/// turn of the loop and written at its end, many with one call. Nothing here waits for the reader.
///
/// A reader that is slow but takes something holds units back, as a pipe would: while much waits for it, no unit's output is
/// read. A reader that takes nothing for ``patience`` is stuck: it holds no unit back, and loses lines, counted; the log files
/// have them all.
///
///     flowing ── much waits ──▶ holding ── nothing taken for a while ──▶ stuck
///        ▲──────── taken ─────────┘                                        │
///        └────────────────────────── the reader takes again ───────────────┘
final class Console {
    /// The most that may wait before units are held back.
    private static let highWater = 128 << 10
    /// How long a reader may take nothing before it holds no unit back any more.
    private static let patience = Duration.milliseconds(100)
    private static let newline: [UInt8] = [10]

    private let output: StandardOutput
    private let errors: StandardOutput
    private let isShared: Bool
    private let isQuiet: Bool
    private var text: ConsoleText
    private var isStuck = false
    /// When the reader took something, while much waits for it.
    private var holdingSince: MonotonicInstant?

    /// - Parameters:
    ///   - output: the number of standard output.
    ///   - errors: the number of standard error.
    init(output: Int32, errors: Int32, isQuiet: Bool) {
        self.isQuiet = isQuiet
        text = ConsoleText(isTerminal: Terminal.isTerminal(output), hasColours: Self.wantsColours(currentEnvironment()))
        self.output = StandardOutput(output, name: "standard output", hint: " (the logs have them)")
        // One buffer keeps the order of what goes to one reader.
        isShared = StandardOutput.areSame(output, errors)
        self.errors = isShared ? self.output : StandardOutput(errors, name: "standard error", limit: 256 << 10)
    }

    /// no-color.org, and terminals that know none.
    private static func wantsColours(_ environment: [String]) -> Bool {
        !environment.contains { ($0.hasPrefix("NO_COLOR=") && $0 != "NO_COLOR=") || $0 == "TERM=dumb" }
    }

    /// Takes a unit's name; its place, for ``line(_:of:)``.
    func add(_ name: String) -> Int { text.add(name) }

    /// A line of the unit at a place.
    @inline(__always)
    func line(_ bytes: ArraySlice<UInt8>, of unit: Int) {
        if isQuiet { return }
        output.append(text.prefix(of: unit), ConsoleText.shown(bytes), Self.newline[...])
    }

    /// Lines that are complete in themselves.
    func text(_ text: String) { errors.append(text + "\n") }

    /// A line of the supervisor's own.
    func notice(_ text: String) { errors.append("workspacekit: \(visibleText(text))\n") }

    /// A result, which is the supervisor's last word on standard output.
    func result(_ text: String) { output.append(text) }

    /// Whether units are to be held back now, because a reader that is not stuck has enough to read.
    var holdsUnitsBack: Bool { !isStuck && output.count >= Self.highWater }

    /// When ``settle(_:tokens:at:)`` has to be called though nothing happens.
    var deadline: MonotonicInstant? { isStuck ? nil : holdingSince.map { $0 + Self.patience } }

    /// Writes what the readers take, and has the poller say when they take more. Call at the end of each turn.
    func settle(_ poller: borrowing Poller, tokens: (output: UInt64, errors: UInt64), at now: MonotonicInstant) {
        let hasProgressed = output.settle(poller, token: tokens.output)
        if !isShared { errors.settle(poller, token: tokens.errors) }
        if output.count < Self.highWater {
            holdingSince = nil
            isStuck = false
        } else if hasProgressed || holdingSince == nil {
            holdingSince = now
            if hasProgressed { isStuck = false }
        } else if let since = holdingSince, since + Self.patience <= now {
            isStuck = true
        }
    }

    /// Writes what is left at the end, for as long as a reader may be waited for then.
    func finish() {
        let limit = isStuck ? Duration.zero : .milliseconds(300)
        output.finish(within: limit)
        if !isShared { errors.finish(within: limit) }
    }
}
