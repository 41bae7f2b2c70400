internal import Config

/// `gitConfig` as environment variables that git reads before its files (git-config(1), GIT_CONFIG_COUNT).
///
/// No file is written: the global configuration of the user who runs the workspace outlives it, and on one's own machine it is
/// the operator's own. A `.gitpod.yml` that may write there decides which programs git runs outside the workspace later
/// (`core.sshCommand`, `core.hooksPath`).
struct GitEnvironment {
    /// Variables to add, as `NAME=value`.
    private(set) var variables: [String] = []
    /// Names of settings that git would refuse, and every command of it with them.
    private(set) var refused: [String] = []
    private static let countName = "GIT_CONFIG_COUNT="

    /// The variables for `settings`, behind those that `environment` has already.
    init(_ settings: [EnvironmentVariable], after environment: [String]) {
        let named = environment.last { $0.hasPrefix(Self.countName) }?.dropFirst(Self.countName.count)
        // git refuses a number that is none; ours then replaces it.
        let first = named.flatMap { Int($0) }.map { min(max(0, $0), 1000) } ?? 0
        var count = first
        for setting in settings {
            guard Self.isKey(setting.name) else {
                refused.append(setting.name)
                continue
            }
            variables += ["GIT_CONFIG_KEY_\(count)=\(setting.name)", "GIT_CONFIG_VALUE_\(count)=\(setting.value)"]
            count += 1
        }
        if count > first { variables.append(Self.countName + "\(count)") }
    }

    /// Whether a variable of the environment gives way to one of these.
    func replaces(_ variable: String) -> Bool { !variables.isEmpty && variable.hasPrefix(Self.countName) }

    /// Whether git takes it for a key: `section.name` or `section.subsection.name` (git-config(1), Syntax).
    static func isKey(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        guard let first = bytes.firstIndex(of: 46), let last = bytes.lastIndex(of: 46), first > 0,
            last + 1 < bytes.count, !bytes.contains(10), !bytes.contains(0)
        else { return false }
        func isLetter(_ byte: UInt8) -> Bool { (65...90).contains(byte & 0xdf) }
        func isOrdinary(_ byte: UInt8) -> Bool { isLetter(byte) || (48...57).contains(byte) || byte == 45 }
        return bytes[..<first].allSatisfy(isOrdinary) && isLetter(bytes[last + 1])
            && bytes[(last + 1)...].allSatisfy(isOrdinary)
    }
}
