internal import CKernel

/// Terminals (termios(3), pty(7)).
public enum Terminal {
    /// Whether the descriptor is a terminal.
    public static func isTerminal(_ descriptor: Int32) -> Bool { ck_is_terminal(descriptor) == 1 }

    /// A new pseudo-terminal from /dev/ptmx: the side we read, and the side a process gets. It has this size until a viewer
    /// gives it another one.
    public static func open(
        rows: UInt16 = 24, columns: UInt16 = 80
    ) throws(KernelError) -> (master: Descriptor, terminal: Descriptor) {
        var master: CInt = -1
        var terminal: CInt = -1
        _ = try check(unsafe ck_pty_open(&master, &terminal), "open a terminal", "/dev/ptmx")
        var window = ck_window(rows: rows, columns: columns)
        _ = unsafe ck_window_set(master, &window)
        return (Descriptor(OwnedDescriptor(owning: master)), Descriptor(OwnedDescriptor(owning: terminal)))
    }

    /// Settings to be put back later.
    public struct Settings {
        var raw: ck_terminal_state
    }

    /// Switches to raw mode and returns the settings before; nil when it is no terminal.
    public static func makeRaw(_ descriptor: Int32) -> Settings? {
        var raw = ck_terminal_state()
        return unsafe ck_terminal_raw(descriptor, &raw) == 0 ? Settings(raw: raw) : nil
    }

    /// Puts settings back.
    public static func restore(_ descriptor: Int32, _ settings: Settings) {
        var raw = settings.raw
        _ = unsafe ck_terminal_restore(descriptor, &raw)
    }

    /// Gives the window of one terminal its size from another.
    public static func copySize(from: Int32, to: Int32) {
        var window = ck_window()
        if unsafe ck_window_get(from, &window) == 0, window.rows > 0, window.columns > 0 {
            _ = unsafe ck_window_set(to, &window)
        }
    }

    /// The size of a terminal's window; nil when it is none, or has none.
    public static func size(_ descriptor: Int32) -> (rows: Int, columns: Int)? {
        var window = ck_window()
        guard unsafe ck_window_get(descriptor, &window) == 0, window.rows > 0, window.columns > 0 else { return nil }
        return (Int(window.rows), Int(window.columns))
    }

    /// Gives up the controlling terminal, which only a session's leader does for all; false when it has none. SIGHUP and
    /// SIGCONT follow (tty_ioctl(4)).
    public static func detach(_ descriptor: Int32) -> Bool { ck_terminal_detach(descriptor) == 0 }

    /// Makes a process group the one that the terminal's keys signal.
    public static func setForeground(_ descriptor: Int32, group: Int32) {
        _ = ck_terminal_foreground(descriptor, group)
    }
}
