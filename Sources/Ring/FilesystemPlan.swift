/// Where the workspace's writes go.
public enum RootMode: String, Sendable, CaseIterable {
    /// Into the container's files.
    case shared
    /// Nowhere but into the writable places.
    case readOnly = "read-only"
    /// Into memory, but for the writable places: they end with the workspace.
    case `private`
}

/// What of the container's files the workspace sees, and where it may write. All paths are absolute.
public struct FilesystemPlan: Hashable, Sendable {
    /// Where its writes go.
    public var root = RootMode.shared
    /// Directories in which the workspace's root makes files of the container's; a cover where the container does not let it.
    public var writable: [String] = []
    /// Files and directories that are empty inside.
    public var hidden: [String] = []
    /// Directories that are the workspace's own and empty, if the root is not shared, beside /run and /tmp.
    public var fresh: [String] = []
    /// Files that only the outside changes.
    public var readOnlyFiles: [String] = []
    /// The workspace directory and the state directory.
    public var workspace = "", state = ""

    /// A shared root.
    public init() {}
}

extension FilesystemPlan {
    /// The plan as lines of a word and a value.
    var text: String {
        let paths = [("root", [root.rawValue]), ("workspace", [workspace]), ("state", [state])]
        let lists = [("writable", writable), ("hidden", hidden), ("fresh", fresh), ("read-only", readOnlyFiles)]
        return (paths + lists).flatMap { word, values in values.map { "\(word) \($0)" } }.joined(separator: "\n")
    }

    /// Reads what ``text`` wrote; nil for anything else.
    init?(text: String) {
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2 else { return nil }
            switch parts[0] {
            case "root":
                guard let mode = RootMode(rawValue: parts[1]) else { return nil }
                root = mode
            case "workspace": workspace = parts[1]
            case "state": state = parts[1]
            case "writable": writable.append(parts[1])
            case "hidden": hidden.append(parts[1])
            case "fresh": fresh.append(parts[1])
            case "read-only": readOnlyFiles.append(parts[1])
            default: return nil
            }
        }
    }
}
