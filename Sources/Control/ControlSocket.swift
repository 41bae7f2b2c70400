internal import FoundationEssentials
public import Kernel
internal import SystemPackage
internal import TerminalText

/// Where a workspace keeps what outlives a command: the control socket, logs, and the staging directory of the rings.
public struct StateDirectory: Hashable, Sendable {
    /// Absolute path.
    public let path: String

    /// The directory at a path.
    public init(_ path: String) { self.path = path }

    /// The directory to use when none is named: WORKSPACEKIT_STATE_DIR, which is set inside a workspace; else
    /// /run/workspacekit for root, $XDG_RUNTIME_DIR/workspacekit for others.
    public static func standard(environment: [String: String], uid: UInt32) -> StateDirectory {
        if let named = environment["WORKSPACEKIT_STATE_DIR"], !named.isEmpty { return StateDirectory(named) }
        if uid == 0 { return StateDirectory("/run/workspacekit") }
        if let runtime = environment["XDG_RUNTIME_DIR"], !runtime.isEmpty {
            return StateDirectory(runtime + "/workspacekit")
        }
        return StateDirectory("/tmp/workspacekit-\(uid)")
    }

    /// The control socket.
    public var socket: String { path + "/control.sock" }
    /// Where metrics are served over HTTP.
    public var metrics: String { path + "/metrics.sock" }
    /// The folder of the log files.
    public var logs: String { path + "/logs" }
    /// The events of the workspace that runs, or ran last.
    public var events: String { path + "/events.jsonl" }
    /// The folder of the commands that a workspace brings with it.
    public var commands: String { path + "/bin" }
    /// A file beside the commands that says where the state directory is, for those who call them without
    /// WORKSPACEKIT_STATE_DIR.
    public var ownPath: String { commands + "/" + Self.ownPathName }
    /// Its name.
    public static let ownPathName = ".state-dir"

    /// The state directory of the workspace that brought the command which was executed by this path; nil for other commands.
    public static func ofCommand(executedAs path: String) -> StateDirectory? {
        guard let end = path.utf8.lastIndex(of: UInt8(ascii: "/")),
            let named = Files.regularText(path[...end] + ownPathName, limit: 4096), named.hasPrefix("/")
        else { return nil }
        return StateDirectory(named)
    }
    /// A file among the logs that is made when a workspace starts: a log that is older is of a workspace before it.
    public var logsBegin: String { logs + "/.begin" }
    /// Where the new root is assembled.
    public var rings: String { path + "/rings" }
    /// Locked while a workspace runs.
    public var lock: String { path + "/lock" }

    /// The log file of a unit.
    public func log(of unit: String) -> String { "\(logs)/\(FileNames.encode(unit)).log" }

    /// The log file of a unit that is there to be read: in those of earlier versions `_` stands for what is no letter.
    public func presentLog(of unit: String) -> String {
        let path = log(of: unit)
        if Files.status(path) != nil { return path }
        let safe = unit.unicodeScalars.map { scalar -> String in
            let ordinary = scalar.properties.isAlphabetic || scalar.properties.numericType != nil
            return ordinary || "-_. ".unicodeScalars.contains(scalar) ? String(scalar) : "_"
        }.joined()
        let former = "\(logs)/\(safe.hasPrefix(".") ? "_" + safe : safe).log"
        return Files.status(former) != nil ? former : path
    }

    /// A file beside the log of a unit whose name the log's cannot say: it has the name.
    public static func nameFile(ofLog path: String) -> String { path + ".name" }
}

/// The client's end of a control connection: JSON objects, one a line, with descriptors beside them. It waits for the server,
/// whose end is a ``ServedConnection``.
public final class ControlConnection {
    /// The socket.
    public let descriptor: Descriptor
    private var lines = LineBuffer()
    /// Descriptors that came and were not yet taken.
    public var received: [Descriptor] = []
    private static let lineLimit = 16 << 20

    /// Takes over a connected socket.
    public init(_ descriptor: Descriptor) { self.descriptor = descriptor }

    /// What a read brought.
    public enum Arrival: Sendable { case line([UInt8]), nothingYet, closed }

    /// A whole line came with the one before it: no poller tells of it.
    public var hasLine: Bool { lines.hasLine }

    /// The next whole line, from what is buffered or from one more read.
    public func next() -> Arrival {
        while true {
            if let line = lines.next() { return .line(line) }
            if lines.count > Self.lineLimit { return .closed }
            var chunk = [UInt8](repeating: 0, count: 16384)
            let (outcome, descriptors) = LocalSocket.receive(descriptor.number, into: &chunk, waits: true)
            received += descriptors
            switch outcome {
            case .bytes(0), .failed: return .closed
            case .bytes(let n): lines.append(chunk[..<n])
            case .wouldBlock: return .nothingYet
            }
        }
    }

    /// What has come behind the last line, taken out.
    public func rest() -> [UInt8] { lines.removeAll() }

    /// Sends an object; false when the other end is gone or takes nothing for a second.
    @discardableResult
    public func send(_ value: some Encodable, descriptors: [Descriptor] = []) -> Bool {
        guard var bytes = (try? JSONEncoder().encode(value)).map(Array.init) else { return false }
        bytes.append(10)
        var pending = descriptors.map(\.number)
        for _ in 0..<1000 {
            switch LocalSocket.send(descriptor.number, bytes, descriptors: pending) {
            case .bytes(let n) where n == bytes.count: return true
            case .bytes(let n):
                bytes.removeFirst(n)
                pending = []
            case .wouldBlock:
                if !waitWritable(descriptor.number, .seconds(1)) { return false }
            case .failed: return false
            }
        }
        return false
    }

    /// Reads an object from a line; nil when it is none of that type.
    public static func decode<T: Decodable>(_ type: T.Type, _ line: [UInt8]) -> T? {
        try? JSONDecoder().decode(type, from: Data(line))
    }
}

/// The text of an object as JSON, for people and scripts.
public func prettyJSON(_ value: some Encodable) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    guard let bytes = try? encoder.encode(value) else { return "{}" }
    // The encoder escapes C0 only, and a terminal acts on DEL and C1 too.
    var text = ""
    for scalar in String(decoding: bytes, as: UTF8.self).unicodeScalars {
        if (0x7f...0x9f).contains(scalar.value) {
            text += "\\u00" + String(scalar.value, radix: 16)
        } else {
            text.unicodeScalars.append(scalar)
        }
    }
    return text
}

/// Rows as a table for people: columns as wide as what is in them. Cells hold text from inside the workspace, so what a
/// terminal would act on is taken out of them.
public func tableText(_ rows: [[String]]) -> String {
    guard let first = rows.first else { return "" }
    let rows = rows.map { $0.map(visibleText) }
    let widths = first.indices.map { column in rows.map { columnCount($0[column]) }.max() ?? 0 }
    return rows.map { row in
        var line = zip(row, widths).map { padded($0, columns: $1) }.joined(separator: "  ")
        while line.last == " " { line.removeLast() }
        return line + "\n"
    }.joined()
}

/// A client of a running workspace. A supervisor that is killed takes the connections with it that nobody waits on; the one
/// that takes over listens on the same socket, so what was asked is asked again there.
public final class ControlClient {
    /// The connection.
    public private(set) var connection: ControlConnection
    private let state: StateDirectory
    /// What was sent last, to be sent again with a proof.
    private var last: (request: ControlRequest, descriptors: [Descriptor])?

    /// Connects; throws ENOENT or ECONNREFUSED when no workspace runs there, and EPERM when another user may serve it: it would
    /// hear what is asked, and get the descriptors that go with it.
    public init(_ state: StateDirectory) throws(KernelError) {
        self.state = state
        connection = ControlConnection(try Self.connect(state))
    }

    private static func connect(_ state: StateDirectory) throws(KernelError) -> Descriptor {
        let directory: Descriptor
        do throws(StateDirectoryError) {
            directory = try state.open(ownedBy: [CurrentProcess.effectiveUser, 0])
        } catch {
            let isMissing = error == .missing
            throw KernelError(
                call: "connect to", subject: state.socket, errno: isMissing ? .noSuchFileOrDirectory : .notPermitted)
        }
        defer { withExtendedLifetime(directory) {} }
        let socket = "/proc/self/fd/\(directory.number)/control.sock"
        let user = StateHandover(directory).user(of: socket) ?? CurrentProcess.effectiveUser
        // A link in its place could lead to another workspace's.
        let file = try Files.reference(socket, followLinks: false)
        guard Files.status(of: file)?.kind == .socket else {
            throw KernelError(call: "connect to", subject: state.socket, errno: .notPermitted)
        }
        defer { withExtendedLifetime(file) {} }
        return try CurrentProcess.asUser(user) { () throws(KernelError) in
            try LocalSocket.connect("/proc/self/fd/\(file.number)")
        }
    }

    /// Sends a request.
    public func send(_ request: ControlRequest, descriptors: [Descriptor] = []) {
        last = (request, descriptors)
        connection.send(request, descriptors: descriptors)
    }

    /// Sends the last request again, with this process's user namespace, which only what is in it can open. A server below the
    /// workspace could show it to another workspace, so it does not get it.
    private func prove() -> Bool {
        guard var (request, descriptors) = last, request.hasProof != true,
            !LocalSocket.isServedFromFarBelow(connection.descriptor.number),
            let proof = try? Files.open("/proc/self/ns/user", flags: 0)
        else { return false }
        request.hasProof = true
        descriptors.append(proof)
        last = (request, descriptors)
        return connection.send(request, descriptors: descriptors)
    }

    /// Sends a request and waits for an answer; nil when the workspace ended meanwhile. `exec` is not sent twice.
    public func ask(_ request: ControlRequest, descriptors: [Descriptor] = []) -> ControlResponse? {
        for _ in 0..<100 {
            // A server that refuses has answered and closed already: its answer counts, not that ours came too late.
            send(request, descriptors: descriptors)
            if let answer = answer() { return answer }
            guard request.verb != .exec, reconnect() else { return nil }
        }
        return nil
    }

    /// Waits for the next answer; nil when the connection ended.
    public func answer() -> ControlResponse? {
        guard case .line(let line) = connection.next() else { return nil }
        let answer = ControlConnection.decode(ControlResponse.self, line)
        return answer?.wantsProof == true && prove() ? self.answer() : answer
    }

    /// Connects anew once the connection has ended; false when the workspace has.
    public func reconnect() -> Bool {
        guard let socket = try? Self.connect(state) else { return false }
        connection = ControlConnection(socket)
        return true
    }
}
