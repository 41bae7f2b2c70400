public import Config
public import Kernel
internal import SystemPackage

/// Where a workspace's configuration lies: a `.gitpod.yml`, and a `.workspacekit.yml` beside it.
public struct ConfigurationFiles: Hashable, Sendable {
    /// Absolute.
    public let path: String
    /// What diagnostics call it.
    public let name: String

    /// The files to read when `path` is named as `name`.
    public init(path: String, name: String) {
        self.path = Files.absolute(path)
        self.name = name
    }

    /// The directory that holds both.
    public var directory: String {
        let parts = path.split(separator: "/").dropLast()
        return "/" + parts.joined(separator: "/")
    }

    /// The other file; nil when `path` is that one itself.
    public var extensionsPath: String? {
        path.hasSuffix(".workspacekit.yml") ? nil : (directory == "/" ? "" : directory) + "/.workspacekit.yml"
    }

    private var extensionsName: String {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false).dropLast()
        return (parts + [".workspacekit.yml"]).joined(separator: "/")
    }

    /// What of the two is there. With `required`, one has to be: ENOENT when there is none.
    public func read(required: Bool = false) throws(KernelError) -> [Source] {
        var sources: [Source] = []
        // A file over the reader's limit is a diagnostic; one over this is no configuration at all.
        let limit = 16 << 20
        if Files.status(path) != nil {
            sources.append(Source(name: name, bytes: try Files.read(path, limit: limit)))
        }
        if let extensionsPath, Files.status(extensionsPath) != nil {
            sources.append(Source(name: extensionsName, bytes: try Files.read(extensionsPath, limit: limit)))
        }
        if sources.isEmpty, required {
            throw KernelError(call: "open", subject: name, errno: .noSuchFileOrDirectory)
        }
        return sources
    }
}

extension Reading {
    /// Reads a configuration, and adds what only this machine can tell: users that do not exist. Where it is only looked
    /// at, that is a warning: it may be meant for another machine.
    public init(_ sources: [Source], on users: UserDatabase, toRun: Bool = true) {
        self.init(sources)
        var more: [Diagnostic] = []
        func check(_ user: UserSpec?, _ path: String) {
            guard let user, users.identity(for: user.name) == nil else { return }
            more.append(
                Diagnostic(
                    severity: toRun ? .error : .warning, code: .unknownReference, mark: user.mark, path: path,
                    message: "unknown user \"\(user.name)\"" + (toRun ? "" : " on this machine")))
        }
        check(configuration.user, "workspacekit.user")
        for service in configuration.services {
            check(service.options.user, "workspacekit.services.\(service.name).user")
        }
        for task in configuration.tasks { check(task.options.user, "workspacekit.tasks.\(task.name ?? "").user") }
        add(more)
    }
}
