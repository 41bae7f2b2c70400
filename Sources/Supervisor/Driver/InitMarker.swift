internal import Config
internal import Control
internal import Kernel

/// Whether the `init` of a task has succeeded in this workspace: a file of the task's name, which the task's shell writes.
///
/// Its content is a checksum of the text that succeeded. As with Gitpod, where `init` belongs to a new workspace, another text
/// does not run by itself: it works on what the first one made (a database, a checkout), and could destroy it.
struct InitMarker: Hashable {
    /// What is known of a task's `init`.
    enum State: Hashable {
        case pending
        case done
        /// It succeeded with another text than it has now.
        case doneOtherwise
    }

    private let workspace: String
    private let name: String
    /// What the file says once the `init` has succeeded.
    let text: String
    /// Files of versions that had the task's position in the name.
    private let former: FormerMarkers

    /// - Parameters:
    ///   - name: the task's name.
    ///   - position: where the task stands, counted from 1.
    ///   - others: the names of the other tasks.
    init(workspace: String, name: String, script: String, position: Int, others: [String]) {
        self.workspace = workspace
        self.name = FileNames.encode(name)
        text = FileNames.hash(script)
        former = FormerMarkers(name: name, position: position, others: others)
    }

    /// The path of the file.
    var path: String { "\(directory)/\(name)" }
    /// The directory of the files of all tasks.
    var directory: String { WorkspaceMemory(workspace).path("init") }

    /// What the files say.
    var state: State {
        if let found = Files.regularText(path, limit: 4096), let line = found.split(separator: "\n").first {
            return line == text ? .done : .doneOtherwise
        }
        // A file that is there and empty belongs to a start that has begun and not succeeded.
        if Files.status(path, followLinks: false) != nil { return .pending }
        return former.isAny(in: directory) ? .done : .pending
    }

    /// Makes an empty file that the task's user may write, in place of any other: `init` is about to run.
    func prepare(for identity: Identity?) throws(KernelError) {
        let open = try WorkspaceMemory(workspace).open("init")
        try Files.remove(open.path(name))
        try Files.create(open.path(name), [])
        if let identity { try Files.changeOwner(open.path(name), uid: identity.uid, gid: identity.gid) }
        withExtendedLifetime(open) {}
    }

    /// `init` has never succeeded.
    func forget() throws(KernelError) {
        let open = try WorkspaceMemory(workspace).open("init")
        try Files.remove(open.path(name))
        for name in former.names(in: directory) { try Files.remove(open.path(name)) }
        withExtendedLifetime(open) {}
    }

    /// Shell text that says that `init` has succeeded. A file that cannot be written keeps nothing from running.
    var command: String {
        """
        { [ -d \(quote(directory)) ] || mkdir -p \(quote(directory)); printf '%s\\n' \(text) > \(quote(path)) || \
        echo 'init will run again: its file cannot be written' >&2; }
        """
    }
}

/// The files `POSITION-NAME`, empty, of earlier versions; all but some letters of the name were replaced by `_`.
private struct FormerMarkers: Hashable {
    private let safeName: String
    private let position: Int
    /// Another task had the same name in these files.
    private let isAmbiguous: Bool

    init(name: String, position: Int, others: [String]) {
        func safe(_ name: String) -> String {
            String(name.map { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-") ? $0 : "_" })
        }
        safeName = safe(name)
        self.position = position
        isAmbiguous = others.map(safe).contains(safeName)
    }

    /// The files that are this task's, wherever it stood.
    func names(in directory: String) -> [String] {
        Files.entries(directory).filter { entry in
            let parts = entry.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, let number = Int(parts[0]), parts[1] == safeName else { return false }
            return isAmbiguous ? number == position : true
        }
    }

    func isAny(in directory: String) -> Bool { !names(in: directory).isEmpty }
}

/// A word of shell text that means just `text`.
func quote(_ text: String) -> String {
    "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}
