/// Something that happened in a workspace, as `events` shows it: one JSON object on a line of the workspace's event file.
public struct WorkspaceEvent: Codable, Hashable, Sendable {
    /// What happened.
    public enum Name: String, Codable, Sendable, CaseIterable {
        /// A unit has a process.
        case started
        /// It could not be started.
        case notStarted = "not-started"
        /// Another process is its main one now (MAINPID= of sd_notify(3)).
        case replaced
        /// It said that it is ready, or was healthy once, or neither is asked of it.
        case ready
        /// What its healthcheck says has changed.
        case healthy, unhealthy
        /// It was asked to end.
        case stopping
        /// Its process ended.
        case exited
        /// Its next start comes after a delay.
        case backingOff = "backing-off"
        /// Its sockets are there, and it starts when somebody connects.
        case listening
        /// It came to its end: with success, without, or because somebody asked for it.
        case completed, failed, stopped
        /// It does not start.
        case skipped
        /// The configuration no longer has it.
        case removed
        /// Another supervisor goes on where the one before ended unasked.
        case takenOver = "taken-over"
        /// The configuration was read again, and something changed.
        case reloaded
        /// A flow to the outside, or the look-up of a name, was refused.
        case denied
        /// The forwarder ended unasked: another is started, and open connections are reset.
        case forwarderEnded = "forwarder-ended"
    }
    /// When, by RFC 3339.
    public var time = ""
    /// What.
    public var event: Name
    /// `service`, `task` or `command`; `workspace` for what concerns all of it, `network` for what went through the
    /// forwarder.
    public var kind: String
    /// Which task or service; nil for the workspace.
    public var unit: String?
    /// Its process, as the workspace numbers it.
    public var pid: Int32?
    /// What the process ended with: 128 + n for signal n.
    public var exitCode: UInt8?
    /// How, or why, in words.
    public var reason: String?
    /// The delay before the next start.
    public var delaySeconds: Double?

    /// An event without particulars.
    public init(_ event: Name, kind: String, unit: String? = nil) {
        self.event = event
        self.kind = kind
        self.unit = unit
    }

    /// `service web started (pid 12)`.
    public var sentence: String {
        var details: [String] = []
        if let pid { details.append("pid \(pid)") }
        if let exitCode { details.append("exit code \(exitCode)") }
        if let delaySeconds { details.append("next start in \(delaySeconds) s") }
        if let reason, reason != exitCode.map({ "exit status \($0)" }) { details.append(reason) }
        let subject = unit.map { "\(kind) \($0)" } ?? kind
        let verb = event.rawValue.split(separator: "-").joined(separator: " ")
        return "\(subject) \(verb)" + (details.isEmpty ? "" : " (\(details.joined(separator: ", ")))")
    }
}
