internal import Control
internal import Kernel
internal import SystemPackage

/// The state directory while the workspace runs. Users remove it (`rm -rf /run/…`), and nothing may end for that.
///
/// A supervisor makes at its start what is missing, and finds out later that it is gone by looking now and then. Then it
/// lets another supervisor take over: that one opens logs, events and sockets again, as it does after any crash.
struct StateUpkeep {
    private static let interval = Duration.seconds(1)
    private let state: StateDirectory
    private let console: Console
    /// Whether it could be had at the start: where it cannot be made, nothing is gained by another supervisor.
    private let wasThere: Bool
    private var lookAt: MonotonicInstant

    /// Makes what is missing of the directory. An error is one only for the first supervisor, which has nothing to lose.
    init(_ state: StateDirectory, _ console: Console, takesOver: Bool, at now: MonotonicInstant) throws(KernelError) {
        self.state = state
        self.console = console
        lookAt = now + Self.interval
        let isMissing = takesOver && !Files.isDirectory(state.logs)
        do {
            if isMissing { try Files.makeDirectories(state.path, mode: 0o711) }
            try Files.makeDirectory(state.logs, mode: 0o700)
            if isMissing { console.notice("\(state.path) was removed: it is made again, without the logs so far") }
        } catch {
            guard takesOver else { throw error }
            console.notice("\(error): logs are kept in memory")
        }
        wasThere = Files.isDirectory(state.logs)
    }

    /// Whether the directory has been removed since the start.
    mutating func isLost(at now: MonotonicInstant) -> Bool {
        guard wasThere, lookAt <= now else { return false }
        lookAt = now + Self.interval
        return !Files.isDirectory(state.logs)
    }

    /// The listening socket at a path: the one that was kept, if the path still leads to a socket; else another one.
    func socket(at path: String, kept: Descriptor?) throws(KernelError) -> Descriptor {
        if let kept, Files.status(path, followLinks: false)?.kind == .socket { return kept }
        do { return try LocalSocket.listen(path, mode: 0o666) } catch {
            // Those who hold a connection still have it.
            guard let kept else { throw error }
            return kept
        }
    }
}
