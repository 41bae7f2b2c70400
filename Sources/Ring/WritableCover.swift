internal import Kernel

/// A tree that is like another, but root inside may write in it. Overlayfs would not do: what it shows keeps its owners,
/// and who owns nothing in a directory may make nothing in it.
///
/// What can be used through a link is linked: other file systems, which may change (the volumes of a ConfigMap do), what
/// is writable already, large files, sockets that answer. Directories are made anew with what is in them, small files are
/// copied, and what root inside may neither read nor write is left out: a socket nobody answers at is in the way of one's own.
struct WritableCover {
    /// Where the original lies, and what the links in the workspace lead to.
    let original: String, visible: String
    /// Files beyond that are linked, not copied.
    static let largestCopy = 65536
    /// Entries beyond that are linked with their directory, whatever they are.
    private var budget = 10_000
    private let device: UInt64

    /// A cover for the directory at `original`, which the workspace sees at `visible`.
    init(_ original: String, visible: String) {
        self.original = original
        self.visible = visible
        device = Files.status(original)?.device ?? 0
    }

    /// Fills `directory`.
    mutating func fill(_ directory: String, from place: String = "") throws(KernelError) {
        for name in Files.entries(original + place) {
            let below = "\(place)/\(name)"
            let source = original + below
            guard let status = Files.status(source, followLinks: false) else { continue }
            let copy = "\(directory)/\(name)"
            budget -= 1
            switch status.kind {
            case .symbolicLink:
                if let target = Files.linkTarget(source) { try Files.symlink(target, at: copy) }
            case .directory where status.device == device && budget > 0 && !Files.isAccessible(source, 2):
                try Files.makeDirectory(copy, mode: status.permissions & 0o777 | 0o700)
                try fill(copy, from: below)
            case .regular
            where status.size <= Self.largestCopy && !Files.isAccessible(source, 2) && Files.isAccessible(source, 4):
                // One that is gone meanwhile, as files of /run are, is left out too.
                guard let bytes = try? Files.read(source) else { continue }
                try Files.create(copy, bytes, mode: status.permissions & 0o777 | 0o200)
            default:
                guard Files.isAccessible(source, status.kind == .socket ? 2 : 4) else { continue }
                try Files.symlink(visible + below, at: copy)
            }
        }
    }
}
