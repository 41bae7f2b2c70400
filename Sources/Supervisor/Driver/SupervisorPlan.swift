internal import Kernel

/// What ring0 hands the supervisor: the configuration's bytes, and how this run is meant.
public struct SupervisorPlan: Hashable, Sendable {
    /// The configuration as read; empty for none.
    public var configuration: [UInt8] = []
    /// The name of its file, for messages.
    public var configurationName: String
    /// Absolute path of the workspace directory.
    public var workspaceDirectory: String
    /// Absolute path of the state directory.
    public var stateDirectory: String
    /// The command of `run -- COMMAND`; empty without.
    public var command: [String]
    /// Standard output is the command's: units' lines stay in their logs.
    public var isQuiet: Bool
    /// How long the supervisor's part of a stop may take.
    public var budget: Duration

    /// A plan for one run.
    public init(
        configuration: [UInt8], configurationName: String, workspaceDirectory: String, stateDirectory: String,
        command: [String], isQuiet: Bool, budget: Duration
    ) {
        self.configuration = configuration
        self.configurationName = configurationName
        self.workspaceDirectory = workspaceDirectory
        self.stateDirectory = stateDirectory
        self.command = command
        self.isQuiet = isQuiet
        self.budget = budget
    }

    /// The plan as bytes of a memory file.
    public var encoded: [UInt8] {
        ChannelMessage(
            "supervise",
            [
                configurationName, workspaceDirectory, stateDirectory, isQuiet ? "quiet" : "", "\(budget.nanoseconds)",
                "\(command.count)",
            ] + command
        ).encoded + [0xff, 0xff, 0xff, 0xff] + configuration
    }

    /// Reads what ``encoded`` wrote; nil for anything else.
    init?(decoding bytes: [UInt8]) {
        let marker: [UInt8] = [0xff, 0xff, 0xff, 0xff]
        guard
            let split = bytes.indices.first(where: { bytes[$0...].starts(with: marker) }),
            let message = ChannelMessage(decoding: bytes[..<split]), message.kind == "supervise"
        else { return nil }
        let f = message.fields
        guard f.count >= 6, let budget = Int64(f[4]), let count = Int(f[5]), f.count == 6 + count else { return nil }
        self.init(
            configuration: Array(bytes[(split + 4)...]), configurationName: f[0], workspaceDirectory: f[1],
            stateDirectory: f[2], command: Array(f[6...]), isQuiet: !f[3].isEmpty, budget: .nanoseconds(budget))
    }
}
