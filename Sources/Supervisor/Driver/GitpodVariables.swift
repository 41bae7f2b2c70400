internal import Config
internal import Kernel

/// The variables of Gitpod that mean something here. Others of it (its instance, owner, cluster, the workspace's URL and
/// context) belong to its service, and have the values that they are given from outside.
struct GitpodVariables {
    /// Where tasks run.
    let repositoryRoot: String
    /// The start is a prebuild.
    let isPrebuild: Bool
    /// The settings of `gitConfig`.
    let git: [EnvironmentVariable]

    /// As the first look found them: a limit that changes later must not restart every unit.
    private static let limits = MachineLimits.current

    /// Those that this workspace decides.
    var variables: [(String, String)] {
        [
            ("GITPOD_REPO_ROOT", repositoryRoot), ("GITPOD_REPO_ROOTS", repositoryRoot),
            ("GITPOD_HEADLESS", "\(isPrebuild)"), ("GITPOD_CPU_COUNT", "\(Self.limits.processors)"),
            // MiB.
            ("GITPOD_MEMORY", "\(Self.limits.memoryBytes >> 20)"),
        ]
    }

    /// Those that hold where nothing outside says otherwise.
    var defaults: [(String, String)] {
        [("GITPOD_GIT_USER_NAME", "user.name"), ("GITPOD_GIT_USER_EMAIL", "user.email")].compactMap { name, key in
            git.last { $0.name == key }.map { (name, $0.value) }
        }
    }
}
