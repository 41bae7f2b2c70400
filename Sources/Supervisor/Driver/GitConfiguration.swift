internal import Config
internal import Kernel
internal import SystemPackage

/// Settings that git is yet to write, one after the other, each by a process of its own. The loop goes on meanwhile: the git that
/// is found may be anything.
struct GitWriter {
    /// How long all of them together may take.
    private static let limit = Duration.seconds(10)
    /// Settings that are yet to be written, the next one last.
    fileprivate var pending: [(name: String, value: String)] = []
    fileprivate var running: (pid: Int32, name: String)?
    /// When git is killed.
    private(set) var deadline: MonotonicInstant?

    /// Whether something is yet to be written.
    var isBusy: Bool { running != nil || !pending.isEmpty }

    fileprivate mutating func begin(_ settings: [(name: String, value: String)]) {
        pending = settings.reversed()
        deadline = .now + Self.limit
    }

    fileprivate mutating func end() {
        pending = []
        running = nil
        deadline = nil
    }
}

/// `gitConfig`: settings for git, written to the global configuration of whom tasks run as, by git itself.
extension Supervisor {
    /// Writes the settings. At the start units wait for it; after an edit it goes on beside them.
    func writeGitConfiguration() {
        cancelGitConfiguration()
        let settings = reading.configuration.gitConfig
        if settings.isEmpty { return }
        git.begin(settings.map { ($0.name, $0.value) })
        writeNextGitSetting()
    }

    private func writeNextGitSetting() {
        let identity = reading.configuration.user.flatMap { planner.users.identity(for: $0.name) }
        let environment = planner.environment(for: identity, adding: [])
        guard let program = findExecutable("git", path: searchPath(environment)) else {
            console.notice("gitConfig: git is not there: its settings are not written")
            return git.end()
        }
        while let (name, value) = git.pending.popLast() {
            do {
                let null = try Files.open("/dev/null", flags: 2)
                var spawnPlan = SpawnPlan(
                    path: program, arguments: ["git", "config", "--global", name, value],
                    environment: environment, descriptors: [null.number, null.number, 2])
                spawnPlan.identity = identity
                spawnPlan.newSession = true
                git.running = (try spawn(spawnPlan), name)
                return withExtendedLifetime(null) {}
            } catch {
                console.notice("gitConfig: \(name) is not written: \(error)")
            }
        }
        git.end()
    }

    /// A process ended; true when it was git.
    func finishGitSetting(_ pid: Int32, _ status: ExitStatus) -> Bool {
        guard let running = git.running, running.pid == pid else { return false }
        git.running = nil
        if !status.isSuccess { console.notice("gitConfig: \(running.name) is not written: git: \(status)") }
        writeNextGitSetting()
        beginWhenGitIsDone()
        return true
    }

    /// Gives up what takes too long.
    func giveUpGitConfiguration(at now: MonotonicInstant) {
        guard let deadline = git.deadline, deadline <= now else { return }
        if let name = git.running?.name { console.notice("gitConfig: \(name) is not written: git: it hung") }
        cancelGitConfiguration()
        beginWhenGitIsDone()
    }

    func cancelGitConfiguration() {
        if let pid = git.running?.pid { send(.kill, to: -pid) }
        git.end()
    }
}
