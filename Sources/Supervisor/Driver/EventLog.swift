internal import Control
internal import FoundationEssentials
internal import Kernel

/// The workspace's events, a JSON object a line, in a file that anybody of the workspace's can read while it runs and
/// afterwards. A full file moves on (`events.jsonl.1`), and the one before it goes away.
///
/// An event is written before what it is about is saved (``SavedState``): one that is cut off in between is told twice
/// rather than not at all.
final class EventLog {
    private static let sizeLimit = 1 << 20
    private let path: String, console: Console
    private var file: Descriptor?
    private var size = 0
    private var missing = 0
    /// A line was cut short.
    private var isTorn = false
    private let encoder = JSONEncoder()

    init(_ path: String, console: Console, continues: Bool) {
        self.path = path
        self.console = console
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if !continues {
            for part in LogFiles.parts(path, limit: 2) { try? Files.remove(part) }
        }
        open()
    }

    private func open() {
        file = try? Files.openForAppending(path, mode: 0o600)
        size = file.map { Files.size(of: $0.number) } ?? 0
    }

    /// Writes events down. Where the disk is full they are lost, which is said.
    func write(_ events: [WorkspaceEvent]) {
        guard !events.isEmpty else { return }
        let time = WallInstant.now.description
        var bytes: [UInt8] = []
        for var event in events {
            event.time = time
            guard let encoded = try? encoder.encode(event) else { continue }
            bytes += encoded + [10]
        }
        if size > 0, size + bytes.count > Self.sizeLimit {
            try? Files.rename(path, to: path + ".1")
            open()
        } else if file == nil {
            open()
        }
        if isTorn { bytes.insert(10, at: 0) }
        let outcome = file.map { Kernel.write($0.number, bytes) } ?? .wouldBlock
        guard case .bytes(bytes.count) = outcome else {
            if case .bytes = outcome { isTorn = true }
            if missing == 0 { console.notice("events cannot be written to \(path)") }
            missing += events.count
            return
        }
        isTorn = false
        size += bytes.count
        if missing > 0 {
            console.notice("events are written again; \(missing) are missing")
            missing = 0
        }
    }
}
