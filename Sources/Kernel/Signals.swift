internal import CKernel

/// A signal by number (signal(7)).
public struct Signal: Hashable, Sendable, RawRepresentable, CustomStringConvertible {
    /// The number.
    public let rawValue: Int32
    /// The signal of that number.
    public init(rawValue: Int32) { self.rawValue = rawValue }

    /// SIGHUP
    public static let hangup = Signal(rawValue: 1)
    /// SIGINT
    public static let interrupt = Signal(rawValue: 2)
    /// SIGQUIT
    public static let quit = Signal(rawValue: 3)
    /// SIGKILL
    public static let kill = Signal(rawValue: 9)
    /// SIGUSR1
    public static let user1 = Signal(rawValue: 10)
    /// SIGUSR2
    public static let user2 = Signal(rawValue: 12)
    /// SIGPIPE
    public static let pipe = Signal(rawValue: 13)
    /// SIGTERM
    public static let terminate = Signal(rawValue: 15)
    /// SIGCHLD
    public static let child = Signal(rawValue: 17)
    /// SIGCONT
    public static let resume = Signal(rawValue: 18)
    /// SIGSTOP.
    public static let stop = Signal(rawValue: 19)
    /// SIGTSTP: the terminal's suspend key.
    public static let terminalStop = Signal(rawValue: 20)
    /// SIGTTIN.
    public static let terminalInput = Signal(rawValue: 21)
    /// SIGTTOU
    public static let terminalOutput = Signal(rawValue: 22)
    /// SIGWINCH
    public static let windowChanged = Signal(rawValue: 28)

    private static let names = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM",
        "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH",
        "IO",
        "PWR", "SYS",
    ]

    /// The signal called `SIGTERM`, `TERM` or `15`; nil when there is none.
    public init?(name: String) {
        let upper = name.uppercased()
        let bare = upper.hasPrefix("SIG") ? String(upper.dropFirst(3)) : upper
        if let index = Self.names.firstIndex(of: bare) {
            self.init(rawValue: Int32(index) + 1)
        } else if let number = Int32(name), (1...64).contains(number) {
            self.init(rawValue: number)
        } else if let number = Self.realTime(bare) {
            self.init(rawValue: number)
        } else {
            return nil
        }
    }

    /// `RTMIN+3`, `RTMAX-2`: as libc numbers them for programs (signal(7)), which is from 34 on, since it keeps two.
    private static func realTime(_ name: String) -> Int32? {
        for (base, sign, first) in [("RTMIN", "+", Int32(34)), ("RTMAX", "-", 64)] where name.hasPrefix(base) {
            let rest = name.dropFirst(5)
            if rest.isEmpty { return first }
            guard rest.hasPrefix(sign), let offset = Int32(rest.dropFirst()), (0...30).contains(offset) else {
                return nil
            }
            return sign == "+" ? first + offset : first - offset
        }
        return nil
    }

    /// `SIGTERM`; `signal 40` for one without a name.
    public var description: String {
        let index = Int(rawValue) - 1
        return Self.names.indices.contains(index) ? "SIG" + Self.names[index] : "signal \(rawValue)"
    }
}

/// Signals of this process, blocked and read from a descriptor (signalfd(2)), so that no handler ever runs.
public struct SignalReader: ~Copyable {
    private let descriptor: OwnedDescriptor

    /// Blocks the signals and opens the descriptor.
    public init(_ signals: [Signal]) throws(KernelError) {
        var mask: UInt64 = 0
        for signal in signals { mask |= 1 << UInt64(signal.rawValue - 1) }
        _ = try check(ck_block_signals(mask), "block signals")
        descriptor = OwnedDescriptor(owning: try check(ck_signalfd(mask), "open a signal descriptor"))
    }

    /// The number to watch.
    public var number: Int32 { descriptor.number }

    /// The next pending signal; nil when there is none.
    public borrowing func next() -> (signal: Signal, sender: Int32)? {
        var raw = ck_signal()
        guard unsafe ck_signal_read(descriptor.number, &raw) == 1 else { return nil }
        return (Signal(rawValue: raw.number), raw.pid)
    }
}

/// Makes the process deaf to a signal (SIG_IGN); children made by ``spawn(_:)`` hear it again.
public func ignore(_ signal: Signal) { _ = ck_ignore_signal(signal.rawValue) }

/// Whether the process was started deaf to a signal, as nohup(1) and shells do.
///
/// KERNEL: signalfd(2) reads a blocked signal although it is ignored.
public func isIgnored(_ signal: Signal) -> Bool { ck_signal_is_ignored(signal.rawValue) == 1 }
