internal import ArgumentParser
internal import Kernel
internal import Ring
internal import SystemPackage

struct ShiftRootCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "shift-root",
        abstract: "Give the files of an image's root the owners that a workspace of an ordinary user has inside.",
        discussion: """
            For an image whose user is not root: what belongs to root goes to that user, who is root inside; what belongs to \
            another id n goes to the id of the range that n is inside. setuid and setgid bits are kept, capabilities of files \
            are written for that root. What belongs to the user or to the range already stays, so it may be repeated. Other \
            mounts are not entered. It needs root, and a user namespace that has the range; the Dockerfile has it in a stage. \
            Exit code 71 when a file could not be shifted.

              workspacekit shift-root --user 33333 --range 100000:65536 /
              workspacekit shift-root --user 33333 --range 100000:65536 --dry-run DIR
            """)
    @Option(
        help: ArgumentHelp("The image's user, and its group where that is another number.", valueName: "uid[:gid]"),
        transform: parsedUser)
    var user: (uid: UInt32, gid: UInt32)
    @Option(
        help: ArgumentHelp(
            "The user's range in /etc/subuid and /etc/subgid. It begins beyond its own length.",
            valueName: "start:count"),
        transform: parsedRange)
    var range: (start: UInt32, count: UInt32)
    @Flag(help: "Change nothing, and say what would be done.") var dryRun = false
    @Argument(help: "The root directory.", completion: .directory) var directory: String

    func run() {
        guard !isMachineRoot else {
            fail(
                "cannot shift \(directory): it is this machine's root\nhint: run it in a container's build, or on a copy",
                ExitCodes.usage)
        }
        CurrentProcess.raiseOpenFilesLimit()
        let failures = FailureLines()
        var shift = RootShift(owners, isDry: dryRun) { failures.tell($0) }
        do throws(KernelError) { try shift.run(directory) } catch { fail("\(error)", ExitCodes.setUp) }
        print(summary(shift.report))
        if shift.report.failures > 0 { fail(failures.total, ExitCodes.setUp) }
    }

    private var owners: OwnerShift {
        do throws(OwnerShift.Problem) {
            return try OwnerShift(user: user.uid, group: user.gid, start: range.start, count: range.count)
        } catch {
            fail("cannot shift \(directory): \(Self.reasons[error, default: ""])", ExitCodes.usage)
        }
    }

    private static let reasons: [OwnerShift.Problem: String] = [
        .isRoot: "--user is root, to whom everything belongs as it is",
        .rangeIsShort: "--range has fewer than 1000 ids",
        .rangeBeginsEarly: "--range begins below its length, so that it cannot be told what was shifted already",
        .rangeHasTheUser: "--range has the user in it",
        .rangeEndsLate: "--range ends beyond the last id",
    ]

    /// Also for root in a chroot there: nothing tells it from the machine's for sure.
    ///
    /// KERNEL: the machine's first PID namespace has a fixed inode number (PROC_PID_INIT_INO).
    private var isMachineRoot: Bool {
        guard Files.linkTarget("/proc/self/ns/pid") == "pid:[4026531836]", let root = Files.status("/"),
            let named = Files.status(directory)
        else { return false }
        return named.isSameFile(as: root)
    }

    private func summary(_ report: RootShift.Report) -> String {
        let verb = dryRun ? "to shift" : "shifted"
        var text = "\(report.shifted) files \(verb), \(report.bits) of them with setuid or setgid, "
        text += "\(report.capabilities) with capabilities; \(report.already) were already, "
        text += "\(report.beyond) belong to an id beyond the range, \(report.mounts) mounts not entered"
        return text
    }
}

/// Failures one a line; beyond the first few they are only counted, as they are one failure mostly.
private final class FailureLines {
    private static let shown = 20
    private var count = 0
    private var isRefusal = false

    func tell(_ error: KernelError) {
        count += 1
        if count <= Self.shown { say("\(error)") }
        if [.notPermitted, .invalidArgument].contains(error.errno) { isRefusal = true }
    }

    var total: String {
        "\(count) files could not be shifted" + (isRefusal ? "\nhint: \(Self.hint)" : "")
    }

    private static let hint =
        "this needs root, and a user namespace that has the range: an engine with user namespaces wants the Dockerfile's --target root instead"
}

private func parsedUser(_ text: String) throws -> (uid: UInt32, gid: UInt32) {
    let ids = text.split(separator: ":", omittingEmptySubsequences: false).map { UInt32($0) }
    guard 1...2 ~= ids.count, let uid = ids[0], let gid = ids[ids.count - 1] else {
        throw ValidationError("'\(text)' is no UID or UID:GID")
    }
    return (uid, gid)
}

private func parsedRange(_ text: String) throws -> (start: UInt32, count: UInt32) {
    let ids = text.split(separator: ":", omittingEmptySubsequences: false).map { UInt32($0) }
    guard ids.count == 2, let start = ids[0], let count = ids[1] else {
        throw ValidationError("'\(text)' is no range: START:COUNT, as in /etc/subuid")
    }
    return (start, count)
}
