internal import Control
internal import Kernel

/// A file of the workspace's that is added to while it is read, and moves on when it is full (``LogFiles``): up to where it
/// was read, which is a file and an offset in it. Names change hands, and inodes are used again.
struct GrowingFile {
    let path: String
    private(set) var file: Identity?
    private(set) var offset = 0

    /// A file, whatever its name is by now.
    struct Identity: Hashable {
        let inode: UInt64
        let bornAt: WallInstant

        init(_ status: FileStatus) {
            inode = status.inode
            bornAt = status.bornAt
        }
    }

    /// What is there now counts as read.
    init(_ path: String) {
        self.path = path
        guard let status = Files.status(path) else { return }
        file = Identity(status)
        offset = status.size
    }

    /// What was written since: the rest of the file that was read last, wherever it is now, and all that came after it.
    mutating func added() -> [[UInt8]] {
        let (newer, offset) = files()
        if offset == nil { say("some output is missing here: it came faster than it was read") }
        var from = offset ?? 0
        var found: [[UInt8]] = []
        for (part, identity) in newer.reversed() {
            defer { from = 0 }
            // Files may move on while they are read; then the next look goes on from the last one that was read.
            guard let file = try? Files.open(part, flags: 0),
                let status = Files.status("/proc/self/fd/\(file.number)"), Identity(status) == identity,
                let bytes = try? Files.readAll(file.number, subject: part, limit: 1 << 30)
            else { return found }
            if bytes.count > from { found.append(Array(bytes.dropFirst(from))) }
            self.file = identity
            self.offset = max(bytes.count, from)
        }
        return found
    }

    /// The file that was read last and those that came after it, the newest first, and how much of it was read; nil when it
    /// is not there any more.
    private func files() -> (newer: [(String, Identity)], offset: Int?) {
        var newer: [(String, Identity)] = []
        // While files move on, one may not be found under either name: it is looked for again before it counts as lost.
        for attempt in 0..<10 {
            if attempt > 0 { pause(.milliseconds(2)) }
            newer = []
            for part in LogFiles.parts(path, limit: 100) {
                guard let status = Files.status(part) else { break }
                newer.append((part, Identity(status)))
                if Identity(status) == file { return (newer, min(offset, status.size)) }
            }
            if file == nil { return (newer, 0) }
        }
        return (newer, nil)
    }
}

/// Hands over what is added to files, until the workspace ends. Their directory is watched, so that nothing is polled.
func followGrowth(
    of start: [GrowingFile], in directory: String, of state: StateDirectory, _ take: ([UInt8], Int) -> Void
) {
    var files = start
    guard let watch = try? watchDirectory(directory), let client = try? ControlClient(state) else { return }
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
        let ended = waitReadable(client.connection.descriptor.number, .zero) && !client.reconnect()
        for index in files.indices {
            for bytes in files[index].added() { take(bytes, index) }
        }
        if ended { return }
        if waitReadable(watch.number, .seconds(1)) { _ = Kernel.read(watch.number, into: &buffer) }
    }
}

/// Writes to standard output; ends the program quietly when nobody reads any more.
func writeOut(_ bytes: ArraySlice<UInt8>) {
    var rest = bytes
    while !rest.isEmpty {
        guard case .bytes(let count) = Kernel.write(1, Array(rest.prefix(65536))), count > 0 else { quit(0) }
        rest = rest.dropFirst(count)
    }
}
