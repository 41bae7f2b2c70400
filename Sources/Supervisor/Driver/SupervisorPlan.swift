public import Config
internal import Kernel

/// Which phases of the tasks a start runs.
public enum StartKind: String, Hashable, Sendable {
    /// `before`, `init` where it has not succeeded yet, `command`.
    case run
    /// `before`, `init`, `prebuild`; the workspace ends when all tasks have.
    case prebuild
    /// The same, with the summary as JSON and nothing else on standard output.
    case prebuildJSON

    /// Not a run.
    public var isPrebuild: Bool { self != .run }
}

/// What ring0 hands the supervisor: the configuration as read, and how this run is meant.
public struct SupervisorPlan: Hashable, Sendable {
    /// The configuration as read; empty for none.
    public var sources: [Source]
    /// Where it is read again.
    public var files: ConfigurationFiles
    /// Absolute path of the workspace directory.
    public var workspaceDirectory: String
    /// Absolute path of the state directory.
    public var stateDirectory: String
    /// The command of `run -- COMMAND`; empty without.
    public var command: [String]
    /// Which phases run.
    public var start: StartKind
    /// Standard output is the command's: units' lines stay in their logs.
    public var isQuiet: Bool
    /// How long the supervisor's part of a stop may take.
    public var budget: Duration
    /// The workspace's link, as it was made; nil where it has none of its own.
    public var link: WorkspaceLink?
    /// What of it all is the workspace's own, in a word for those who ask for its status.
    public var isolation = "full"

    /// The user namespace of ring0, as a process in it can show it: `DEVICE:INODE`.
    public var outside = ""

    /// The workspace has namespaces of its own, which this process is not in: its units are started in them.
    var hasNamespaces: Bool { isolation != "supervise-only" }

    /// Whose the workspace is, as this process and the workspace number users: its root; who runs it where it is only
    /// supervised.
    var owner: UInt32 { hasNamespaces ? 0 : CurrentProcess.user }

    /// A plan for one run.
    public init(
        sources: [Source], files: ConfigurationFiles, workspaceDirectory: String, stateDirectory: String,
        command: [String], start: StartKind = .run, isQuiet: Bool, budget: Duration
    ) {
        self.sources = sources
        self.files = files
        self.workspaceDirectory = workspaceDirectory
        self.stateDirectory = stateDirectory
        self.command = command
        self.start = start
        self.isQuiet = isQuiet
        self.budget = budget
    }

    private static let marker: [UInt8] = [0xff, 0xff, 0xff, 0xff]

    /// The plan as bytes of a memory file.
    public var encoded: [UInt8] {
        let head =
            [
                files.path, files.name, workspaceDirectory, stateDirectory, isQuiet ? "quiet" : "",
                "\(budget.nanoseconds)",
                "\(command.count)", start.rawValue, isolation, files.isNamed ? "named" : "",
                outside,
            ] + (link?.fields ?? WorkspaceLink.noFields)
        let described = sources.flatMap { [$0.name, $0.role.rawValue, "\($0.bytes.count)"] }
        return ChannelMessage("supervise", head + command + described).encoded + Self.marker + sources.flatMap(\.bytes)
    }

    /// Reads what ``encoded`` wrote; nil for anything else.
    init?(decoding bytes: [UInt8]) {
        guard
            let split = bytes.indices.first(where: { bytes[$0...].starts(with: Self.marker) }),
            let message = ChannelMessage(decoding: bytes[..<split]), message.kind == "supervise"
        else { return nil }
        let f = message.fields
        let head = 11 + WorkspaceLink.noFields.count
        guard f.count >= head, let budget = Int64(f[5]), let count = Int(f[6]), count >= 0, f.count >= head + count,
            let start = StartKind(rawValue: f[7]),
            (f.count - head - count) % 3 == 0
        else { return nil }
        var sources: [Source] = []
        var rest = bytes[(split + 4)...]
        for index in stride(from: head + count, to: f.count, by: 3) {
            guard let role = Source.Role(rawValue: f[index + 1]), let length = Int(f[index + 2]), length >= 0,
                length <= rest.count
            else { return nil }
            sources.append(Source(name: f[index], bytes: Array(rest.prefix(length)), role: role))
            rest = rest.dropFirst(length)
        }
        self.init(
            sources: sources, files: ConfigurationFiles(path: f[0], name: f[1], isNamed: !f[9].isEmpty),
            workspaceDirectory: f[2],
            stateDirectory: f[3], command: Array(f[head..<(head + count)]), start: start, isQuiet: !f[4].isEmpty,
            budget: .nanoseconds(budget))
        isolation = f[8]
        outside = f[10]
        link = WorkspaceLink(fields: Array(f[11..<head]))
    }
}
