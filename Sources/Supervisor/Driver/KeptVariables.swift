internal import Config
internal import Control
internal import Kernel
internal import SystemPackage

/// Environment variables that a user of the workspace has put down for later (`gp env NAME=value`): for what is started from
/// then on, now and at later starts of the workspace, and as that user only: what one user puts down must not decide what
/// another's programs do.
struct KeptVariables {
    private let memory: WorkspaceMemory
    private let name: String

    /// - Parameter directory: the workspace's, which remembers them out of version control's sight.
    init(_ directory: String, uid: UInt32) {
        memory = WorkspaceMemory(directory)
        name = "env-\(uid)"
    }

    /// In the order in which they were put down first; none where the file cannot be understood.
    ///
    /// Each is `NAME=value` and a zero byte, as environ(7) has them: values have any other byte. Files of earlier versions
    /// are lines of an `env_file`.
    var variables: [EnvironmentVariable] {
        guard let text = Files.regularText(memory.path(name), limit: Self.limit) else { return [] }
        guard text.utf8.contains(0) else { return (try? parseEnvironmentFile(text).get()) ?? [] }
        return text.unicodeScalars.split(separator: "\0").compactMap { entry in
            entry.firstIndex(of: "=").map {
                EnvironmentVariable(name: String(entry[..<$0]), value: String(entry[entry.index(after: $0)...]))
            }
        }
    }

    private static let limit = 1 << 16

    /// Puts down `NAME=value` texts and takes away names; why not, or nil.
    func change(setting texts: [String], removing names: [String]) -> String? {
        var kept = variables
        for name in names { kept.removeAll { $0.name == name } }
        for text in texts {
            let parts = text.unicodeScalars.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                .map { String($0) }
            guard parts.count == 2, Self.isName(parts[0]) else { return "\"\(text)\" is not NAME=value" }
            guard !parts[1].utf8.contains(0) else { return "\(parts[0]): a value cannot have a zero byte" }
            if let index = kept.firstIndex(where: { $0.name == parts[0] }) {
                kept[index].value = parts[1]
            } else {
                kept.append(EnvironmentVariable(name: parts[0], value: parts[1]))
            }
        }
        let text = kept.map { "\($0.name)=\($0.value)\0" }.joined()
        guard text.utf8.count < Self.limit else { return "64 KiB of variables are all that is kept" }
        do {
            let open = try memory.open()
            let path = open.path(name)
            // Whole or not at all: it is read while it is written.
            try Files.remove(path + ".new")
            try Files.create(path + ".new", Array(text.utf8), mode: 0o600)
            try Files.rename(path + ".new", to: path)
            withExtendedLifetime(open) {}
        } catch { return "\(error)" }
        return nil
    }

    private static func isName(_ name: String) -> Bool {
        !name.isEmpty && name.utf8.first.map { !(48...57).contains($0) } == true
            && name.utf8.allSatisfy { byte in
                (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 95
            }
    }
}

extension Supervisor {
    /// Shows, puts down or takes away variables of the user who asks.
    func answerVariables(_ request: ControlRequest, _ connection: ServedConnection) {
        guard let uid = LocalSocket.peer(connection.descriptor.number)?.uid else { return }
        let kept = KeptVariables(plan.workspaceDirectory, uid: uid)
        let (setting, removing) = (request.environment ?? [], request.names ?? [])
        if !setting.isEmpty || !removing.isEmpty {
            if let problem = kept.change(setting: setting, removing: removing) {
                connection.send(ControlResponse(error: problem))
                return
            }
            refreshEnvironments()
        }
        var response = ControlResponse()
        response.variables = kept.variables.map { "\($0.name)=\($0.value)" }
        connection.send(response)
    }

    /// What is started from now on has the environment of now; what runs keeps its own.
    private func refreshEnvironments() {
        var next: [String: [PlannedUnit]] = [:]
        for unit in planner.units().reversed() {
            next["\(unit.spec.kind) \(unit.spec.name)", default: []].append(unit)
        }
        for id in units.indices where !engine.isRemoved[id] {
            guard let unit = next["\(units[id].spec.kind) \(units[id].spec.name)"]?.popLast() else { continue }
            units[id].environment = unit.environment
            units[id].aspects = unit.aspects
        }
    }
}
