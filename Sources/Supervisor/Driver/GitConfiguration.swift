internal import Config
internal import Kernel
internal import SystemPackage

/// `gitConfig`: settings for git, written to the global configuration of whom tasks run as, by git itself.
extension Supervisor {
    /// Writes the settings and waits until they are; called before anything runs that might use them, and after an edit.
    func writeGitConfiguration() {
        let settings = reading.configuration.gitConfig
        if settings.isEmpty { return }
        let identity = reading.configuration.user.flatMap { planner.users.identity(for: $0.name) }
        let environment = planner.environment(for: identity, adding: [])
        guard let git = findExecutable("git", path: searchPath(environment)) else {
            return console.notice("gitConfig: git is not there: its settings are not written")
        }
        for setting in settings {
            do {
                let null = try Files.open("/dev/null", flags: 2)
                var spawnPlan = SpawnPlan(
                    path: git, arguments: ["git", "config", "--global", setting.name, setting.value],
                    environment: environment, descriptors: [null.number, null.number, 2])
                spawnPlan.identity = identity
                spawnPlan.newSession = true
                let pid = try spawn(spawnPlan)
                withExtendedLifetime(null) {}
                let status = wait(for: pid)
                if status?.isSuccess != true {
                    let reason = status.map { "\($0)" } ?? "it hung"
                    console.notice("gitConfig: \(setting.name) is not written: git: \(reason)")
                }
            } catch {
                console.notice("gitConfig: \(setting.name) is not written: \(error)")
            }
        }
    }

    /// Its end, within five seconds; then it is killed.
    private func wait(for pid: Int32) -> ExitStatus? {
        for _ in 0..<5000 {
            switch reap(pid) {
            case .ended(_, let status): return status
            case .noChildren: return nil
            case .stopped, .nothingYet: pause(.milliseconds(1))
            }
        }
        send(.kill, to: -pid)
        return nil
    }
}
