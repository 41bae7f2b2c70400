public import Config
public import Kernel
internal import SystemPackage

/// Where a workspace's configuration lies: a `.gitpod.yml`, and a `.workspacekit.yml` beside it.
public struct ConfigurationFiles: Hashable, Sendable {
    /// Absolute.
    public let path: String
    /// What diagnostics call it.
    public let name: String
    /// A user named it. Else it is what was found in the directory, and comes from there.
    public let isNamed: Bool

    /// The files to read when `path` is called `name`.
    public init(path: String, name: String, isNamed: Bool = false) {
        self.path = Files.absolute(path)
        self.name = name
        self.isNamed = isNamed
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
    public func read(required: Bool = false) throws(ConfigurationFileError) -> [Source] {
        var sources: [Source] = []
        if Files.status(path) != nil {
            let bytes = isNamed ? try Self.readNamed(path) : try readFound(path, name)
            sources.append(Source(name: name, bytes: bytes))
        }
        if let extensionsPath, Files.status(extensionsPath) != nil {
            sources.append(Source(name: extensionsName, bytes: try readFound(extensionsPath, extensionsName)))
        }
        if sources.isEmpty, required {
            throw .failed(KernelError(call: "open", subject: name, errno: .noSuchFileOrDirectory))
        }
        return sources
    }

    /// A file over the reader's limit is a diagnostic; one over this is no configuration at all.
    private static let limit = 16 << 20

    private static func readNamed(_ path: String) throws(ConfigurationFileError) -> [UInt8] {
        do throws(KernelError) { return try Files.readNamed(path, limit: limit) } catch { throw .failed(error) }
    }

    /// A file that was found comes from the author of the directory (of a repository), who may be allowed less than its
    /// reader. Diagnostics show its lines, so it is read only if it lies in that directory: a link leads to no other file.
    private func readFound(_ path: String, _ name: String) throws(ConfigurationFileError) -> [UInt8] {
        do throws(KernelError) {
            let file = try Files.openRegular(path)
            let folder = Files.path(of: try Files.reference(directory: directory)) ?? directory
            guard let place = Files.path(of: file), place.hasPrefix(folder == "/" ? "/" : folder + "/") else {
                throw KernelError(call: "read", subject: name, errno: .tooManySymbolicLinkLevels)
            }
            return try Files.readAll(file, subject: name, limit: Self.limit)
        } catch {
            switch error.errno {
            case .tooManySymbolicLinkLevels: throw .leadsOut(name)
            case .invalidArgument, .isDirectory: throw .isNoFile(name)
            default: throw .failed(error)
            }
        }
    }
}

/// Why a configuration's file is not read.
public enum ConfigurationFileError: Error, Hashable, Sendable, CustomStringConvertible {
    /// A system call failed.
    case failed(KernelError)
    /// A link leads out of the directory in which the file was found.
    case leadsOut(String)
    /// A pipe, a device, a directory.
    case isNoFile(String)

    /// What to tell the user.
    public var description: String {
        switch self {
        case .failed(let error): error.description
        case .leadsOut(let name):
            "cannot read \(name): it is a link that leads out of its directory. hint: name the file it leads to with --config"
        case .isNoFile(let name): "cannot read \(name): it is no regular file"
        }
    }
}

extension Reading {
    /// Reads a configuration, and adds what only this machine can tell: users that do not exist, which is an error, and
    /// env_files that cannot be read, whose units are skipped. `validate`, `run` and `reload` say the same, but for the
    /// container's networks, which `validate` cannot know when it runs inside.
    public init(
        _ sources: [Source], on users: UserDatabase, workspace: String, beside networks: [RoutedNetwork] = []
    ) {
        self.init(sources)
        var more: [Diagnostic] = []
        func check(_ user: UserSpec?, _ path: String) {
            guard let user, users.identity(for: user.name) == nil else { return }
            more.append(
                Diagnostic(
                    severity: .error, code: .unknownReference, mark: user.mark, path: path,
                    message: "unknown user \"\(user.name)\" on this machine"))
        }
        func check(_ options: UnitOptions, _ path: String) {
            check(options.user, path + ".user")
            for file in options.environmentFiles {
                guard let problem = EnvironmentFile(file, in: workspace).problem else { continue }
                more.append(
                    Diagnostic(
                        severity: .warning, code: .unknownReference, mark: options.environmentFilesMark,
                        path: path + ".env_file",
                        message: "\(problem): until it can be read (then \"workspacekit reload\"), this is skipped"))
            }
        }
        check(configuration.user, "workspacekit.user")
        for service in configuration.services { check(service.options, "workspacekit.services.\(service.name)") }
        for task in configuration.tasks { check(task.options, "workspacekit.tasks.\(task.name ?? "")") }
        add(more + overlaps(with: networks))
    }

    /// A `cidr` that hides networks of the container's.
    private func overlaps(with networks: [RoutedNetwork]) -> [Diagnostic] {
        let hidden = configuration.network.hidden(of: networks)
        guard !hidden.isEmpty, let node = document["workspacekit"]?["network"]?["cidr"] else { return [] }
        let list = hidden.map(\.description).joined(separator: ", ")
        return [
            Diagnostic(
                severity: .warning, code: .conflict, mark: node.start, path: "workspacekit.network.cidr",
                message: "overlaps the container's \(list), which the workspace cannot reach (auto chooses another)")
        ]
    }
}

extension NetworkSpec {
    /// Of the container's networks those that a configured `cidr` hides from the workspace.
    public func hidden(of networks: [RoutedNetwork]) -> [RoutedNetwork] {
        guard let own = cidr.flatMap({ Subnet($0) }), mode ?? "sandbox" == "sandbox" else { return [] }
        return networks.filter { $0.subnet.overlaps(own) }
    }
}

/// A file of variables that a unit's `env_file` names.
struct EnvironmentFile {
    private let path: String
    /// What it holds, or why that cannot be known.
    let variables: [EnvironmentVariable]
    let problem: String?

    /// Reads the file; a relative path is below the workspace directory.
    init(_ file: EnvironmentFileSpec, in workspace: String) {
        path = Files.absolute(file.path.hasPrefix("/") ? file.path : workspace + "/" + file.path)
        guard let text = Files.text(path) else {
            let isMissed = file.isRequired || Files.status(path) != nil
            (variables, problem) = ([], isMissed ? "cannot read its env_file \(path)" : nil)
            return
        }
        switch parseEnvironmentFile(text) {
        case .success(let found): (variables, problem) = (found, nil)
        case .failure(let error): (variables, problem) = ([], "its env_file \(path):\(error.line): \(error.message)")
        }
    }
}
