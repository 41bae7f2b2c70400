internal import Config
internal import Control
internal import Kernel
internal import Ring
internal import Slirp
internal import Supervisor

extension WorkspaceRun {
    /// Whether a policy restricts where the workspace may connect to.
    func isConfined(_ configuration: WorkspaceConfiguration, _ mode: NetworkMode) -> Bool {
        mode == .none || !EgressPolicy(configuration.network.egress).isOpen
    }

    /// What the workspace sees of the container's files. What cannot be had ends the program.
    func filesystemPlan(
        _ configuration: WorkspaceConfiguration, _ mode: NetworkMode, _ files: ConfigurationFiles
    ) -> FilesystemPlan {
        let isConfined = isConfined(configuration, mode)
        let wanted = configuration.filesystem.root.flatMap { RootMode(rawValue: $0) }
        if isConfined, wanted == .shared {
            fail(
                "filesystem.root cannot be shared with \(mode == .none ? "--network none" : "network.egress"): root inside would "
                    + "replace programs that run outside of it, and reach sockets there. hint: write private or read-only",
                ExitCodes.configuration)
        }
        var plan = FilesystemPlan()
        plan.root = wanted ?? (isConfined ? .private : .shared)
        plan.writable = configuration.filesystem.writable.map { Files.absolute($0) }
        plan.hidden = configuration.filesystem.hidden.map { Files.absolute($0) }
        plan.workspace = workspaceDirectory
        plan.state = Files.absolute(state.path)
        if let runtime = environmentByName()["XDG_RUNTIME_DIR"], runtime.hasPrefix("/"), Files.isDirectory(runtime) {
            plan.fresh = [Files.absolute(runtime)]
        }
        refuseImpossible(plan)
        // A root that is shared lets root inside replace the directories that lead to them.
        if plan.root != .shared { plan.readOnlyFiles = protectedFiles(files, plan) }
        return plan
    }

    private func refuseImpossible(_ plan: FilesystemPlan) {
        for path in plan.hidden {
            for kept in [plan.workspace, plan.state] where Self.contains(path, kept) {
                fail(
                    "filesystem.hidden: \(path) cannot be hidden: the workspace needs \(kept). hint: name what is in it",
                    ExitCodes.configuration)
            }
        }
        if plan.root != .shared, plan.workspace == "/" {
            fail(
                "filesystem.root cannot be \(plan.root.rawValue): the workspace directory is /, which stays writable. hint: name "
                    + "another with --workspace", ExitCodes.configuration)
        }
    }

    /// The files that the policy comes from: the next start reads them again. Of two files only the one beside the
    /// `.gitpod.yml` may hold it, so the other one stays writable.
    private func protectedFiles(_ files: ConfigurationFiles, _ plan: FilesystemPlan) -> [String] {
        let extensions = files.extensionsPath.flatMap { Files.status($0) == nil ? nil : $0 }
        let isInside = ([plan.workspace] + plan.writable).contains { Self.contains($0, files.path) }
        let found = isInside ? [extensions ?? files.path] : [files.path, extensions].compactMap { $0 }
        if isInside, let path = found.first, Files.status(path, followLinks: false)?.kind == .symbolicLink {
            say(
                "\(path) is a link, which the workspace can replace, and with it the policy of the next start. hint: name the file "
                    + "it leads to with --config")
        }
        return found.filter { Files.status($0)?.kind == .regular }
    }

    private static func contains(_ directory: String, _ path: String) -> Bool {
        path == directory || path.hasPrefix(directory == "/" ? "/" : directory + "/")
    }
}
