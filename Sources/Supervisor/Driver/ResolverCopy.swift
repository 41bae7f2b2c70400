internal import Kernel

/// The workspace's own /etc/resolv.conf, as ring2 made it: the file itself, and what is to stand in it. It is read and written
/// through its descriptor only, so that nothing else is ever written in its place, whatever the path leads to.
struct ResolverCopy {
    private static let path = "/etc/resolv.conf"
    private static let limit = 65_536
    private let file: Descriptor, made: Descriptor
    /// The workspace's root directory, which has mounts that this process does not see.
    private let root: Descriptor?

    /// What ring2 left; nil where the workspace has no file of its own.
    init?(_ kept: [Keeper.Key: Descriptor]) {
        guard let file = kept[.resolverCopy], let made = kept[.resolverMade] else { return nil }
        self.file = file
        self.made = made
        root = kept[.workspaceRoot]
    }

    /// What is not as it was made.
    var problems: [String] {
        let seen = root.map { Files.status(Self.path, in: $0) }
        guard let own = Files.status(of: file), (seen ?? Files.status(Self.path))?.isSameFile(as: own) == true else {
            return ["\(Self.path) is not the workspace's own file"]
        }
        let text = String(decoding: Self.content(file), as: UTF8.self)
        return text.split(separator: "\n").contains { $0.hasPrefix("nameserver") }
            ? [] : ["\(Self.path) names no server"]
    }

    /// Writes what is to stand in it.
    func restore() {
        let bytes = Self.content(made)
        guard !bytes.isEmpty, case .bytes = Kernel.write(file.number, bytes, at: 0) else { return }
        Files.truncate(file, to: bytes.count)
    }

    private static func content(_ file: Descriptor) -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: limit)
        guard case .bytes(let count) = Kernel.read(file.number, at: 0, into: &buffer) else { return [] }
        return Array(buffer[..<count])
    }
}
