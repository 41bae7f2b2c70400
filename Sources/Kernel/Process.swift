internal import CKernel
internal import SystemPackage

/// How a process ended.
public enum ExitStatus: Hashable, Sendable, CustomStringConvertible {
    /// sysexits(3): EX_TEMPFAIL.
    public static let temporaryFailure: UInt8 = 75
    /// It called exit with this code.
    case exited(UInt8)
    /// A signal ended it.
    case signalled(Signal, coreDumped: Bool)

    /// The shell's number for it: the code, or 128 + the signal.
    public var code: UInt8 {
        switch self {
        case .exited(let code): code
        case .signalled(let signal, _): UInt8(truncatingIfNeeded: 128 + signal.rawValue)
        }
    }

    /// Whether it exited with 0.
    public var isSuccess: Bool { self == .exited(0) }

    /// In words: `exit status 3`, `SIGKILL`.
    public var description: String {
        switch self {
        case .exited(let code): "exit status \(code)"
        case .signalled(let signal, let core): "\(signal)\(core ? " (core dumped)" : "")"
        }
    }
}

/// What ``reap(_:alsoStopped:)`` found.
public enum Reaped: Sendable {
    /// A child ended.
    case ended(pid: Int32, ExitStatus)
    /// A child was stopped by a job-control signal.
    case stopped(pid: Int32)
    /// Children run, none has ended.
    case nothingYet
    /// There is no child.
    case noChildren
}

/// Collects one ended child (waitid(2)) without blocking: `pid`, or any with -1. With `leaving` it is only looked at
/// (WNOWAIT): it comes again until it is collected, so that its end is not lost with whoever learnt of it.
@discardableResult
public func reap(_ pid: Int32 = -1, alsoStopped: Bool = false, leaving: Bool = false) -> Reaped {
    var raw = ck_exit()
    let result = unsafe ck_wait(pid, alsoStopped ? 1 : 0, leaving ? 1 : 0, &raw)
    if result < 0 { return .noChildren }
    if result == 0 { return .nothingYet }
    switch raw.code {
    case 1: return .ended(pid: raw.pid, .exited(UInt8(truncatingIfNeeded: raw.status)))
    case 2, 3: return .ended(pid: raw.pid, .signalled(Signal(rawValue: raw.status), coreDumped: raw.code == 3))
    default: return .stopped(pid: raw.pid)
    }
}

/// Waits for the end of a child that was killed, and reaps it.
public func awaitEnd(_ pid: Int32) { _ = ck_wait_end(pid) }

/// Sends a signal (kill(2)): to a process, to the group -pid, to all but the caller with -1. False when nobody got it.
@discardableResult
public func send(_ signal: Signal, to pid: Int32) -> Bool { ck_kill(pid, signal.rawValue) == 0 }

/// What a process with a handle (pidfd_open(2)) is to this one, by its user namespace.
public enum Kinship: String, Sendable {
    /// It is in this process's, or in one that cannot be looked into: not one below.
    case equal
    /// It is in one below.
    case below
    /// It has ended, or has no number in this process's PID namespace.
    case unknown

    /// - Parameter handle: of the process.
    public init(of handle: Descriptor) {
        func pid() -> Int32? {
            let line = Files.text("/proc/self/fdinfo/\(handle.number)")?.split(separator: "\n").first {
                $0.hasPrefix("Pid:")
            }
            return line?.split(separator: "\t").last.flatMap { Int32($0) }
        }
        guard let number = pid(), number > 0, let own = Files.status("/proc/self/ns/user") else {
            self = .unknown
            return
        }
        // KERNEL: who made a user namespace may look into all that is in it and below it (user_namespaces(7)).
        let users = Files.status("/proc/\(number)/ns/user")
        // The number was its own all the while.
        guard pid() == number else {
            self = .unknown
            return
        }
        self = users.map { $0.isSameFile(as: own) } ?? true ? .equal : .below
    }
}

/// The process group of a process; nil when there is no such process.
public func processGroup(of pid: Int32) -> Int32? {
    let group = ck_getpgid(pid)
    return group < 0 ? nil : group
}

/// Whether any process, one that has ended and was not collected included, is in a process group.
public func groupExists(_ group: Int32) -> Bool { ck_kill(-group, 0) != -3 }

/// Facts about, and one-way changes to, the calling process.
public enum CurrentProcess {
    /// Its id, in its own PID namespace.
    public static var id: Int32 { ck_getpid() }
    /// Its parent's id; 0 when the parent lives in another PID namespace.
    public static var parent: Int32 { ck_getppid() }
    /// Its effective user id.
    public static var effectiveUser: UInt32 { UInt32(bitPattern: ck_geteuid()) }
    /// Its real user id.
    public static var user: UInt32 { UInt32(bitPattern: ck_getuid()) }
    /// Its real group id.
    public static var group: UInt32 { UInt32(bitPattern: ck_getgid()) }
    /// Sets the group id that counts for file access (setfsgid(2)); the one before. Without CAP_SETGID it may stay as it is.
    public static func setFileGroup(_ group: UInt32) -> UInt32 { ck_set_file_group(group) }
    /// Calls `body` as another user (seteuid(2)), who is the one that a socket's other end sees; as itself where that is not
    /// permitted.
    public static func asUser<Result>(_ user: UInt32, _ body: () throws(KernelError) -> Result) throws(KernelError)
        -> Result
    {
        let former = effectiveUser
        let isChanged = user != former && ck_seteuid(user) == 0
        defer { if isChanged { _ = ck_seteuid(former) } }
        return try body()
    }
    /// Its process group.
    public static var processGroup: Int32 { ck_getpgrp() }

    /// The signals that are blocked (bit n - 1 for signal n), by proc_pid_status(5).
    public static var blockedSignals: UInt64 {
        let lines = Files.text("/proc/self/status")?.split(separator: "\n") ?? []
        let line = lines.first { $0.hasPrefix("SigBlk:") }
        return line?.split { $0 == ":" || $0 == "\t" }.last.flatMap { UInt64($0, radix: 16) } ?? 0
    }

    /// Sends this signal to the process when its parent dies (PR_SET_PDEATHSIG). A change of ids clears it.
    public static func setDeathSignal(_ signal: Signal?) throws(KernelError) {
        _ = try check(ck_set_death_signal(signal?.rawValue ?? 0), "set the parent-death signal")
    }
    /// Makes orphaned descendants its children (PR_SET_CHILD_SUBREAPER).
    public static func becomeSubreaper() throws(KernelError) { _ = try check(ck_set_subreaper(), "become a subreaper") }
    /// Whether it was made a subreaper, by itself or before its exec (PR_GET_CHILD_SUBREAPER).
    public static var isSubreaper: Bool { ck_is_subreaper() == 1 }
    /// The name that ps and /proc/PID/comm show; 15 bytes count.
    public static func setName(_ name: String) { _ = unsafe ck_set_name(name) }
    /// Nothing it executes gains privileges any more (PR_SET_NO_NEW_PRIVS).
    public static func forbidNewPrivileges() throws(KernelError) {
        _ = try check(ck_set_no_new_privileges(), "set no_new_privs")
    }
    /// The user whose files it makes and opens (setfsuid(2)); who it is for signals and traces stays. Clears what
    /// ``setDeathSignal(_:)`` set, and ``setDumpable(_:)``.
    public static func setFileUser(_ uid: UInt32) throws(KernelError) {
        _ = try check(ck_set_file_user(uid), "use files as user", "\(uid)")
    }
    /// Becomes another user for good, with nothing but these capabilities, which the programs that it executes have too
    /// (ambient, capabilities(7)). Clears what ``setDeathSignal(_:)`` set.
    public static func become(user uid: UInt32, keeping kept: [Capability]) throws(KernelError) {
        _ = try check(ck_set_keep_capabilities(1), "keep capabilities")
        _ = try check(ck_set_user(uid), "become user", "\(uid)")
        try Capabilities.hold(kept)
    }
    /// Whether others of the same user may look into it (PR_SET_DUMPABLE).
    public static func setDumpable(_ on: Bool) { _ = ck_set_dumpable(on ? 1 : 0) }
    /// Gives back what of the program's code is mapped; it comes again as it is used. For a process that has begun, and of
    /// which little is needed from then on.
    public static func releaseCode() { ck_release_code() }
    /// Raises the soft limit of open files to the hard one.
    /// Returns how many it may open then.
    @discardableResult
    public static func raiseOpenFilesLimit() -> Int {
        let limit = ck_raise_nofile()
        return limit < 0 ? 1024 : Int(limit)
    }
    /// Changes the working directory.
    public static func changeDirectory(_ path: String) throws(KernelError) {
        _ = try check(unsafe ck_chdir(path), "change directory to", path)
    }
    /// The path that execve(2) was given for it, which may be a link (AT_EXECFN of getauxval(3)).
    public static var executedPath: String { unsafe ck_executed_path().map { unsafe String(cString: $0) } ?? "" }
    /// Opens /dev/null in place of each of the descriptors 0 to 2 that is closed. Otherwise a file that is opened later
    /// gets that number, and programs that are started write to it as to their standard output.
    public static func openStandardStreams() { _ = ck_open_standard_streams() }
    /// Closes every descriptor from this number on but those named.
    public static func closeDescriptors(from first: Int32, except kept: [Int32] = []) {
        var next = first
        for number in kept.sorted() where number >= next {
            if number > next { _ = ck_close_range(next, number - 1) }
            next = number + 1
        }
        _ = ck_close_range(next, .max)
    }
}

/// A program to start, with everything its process is to be. Placed descriptors are the only ones it inherits.
public struct SpawnPlan: Sendable {
    /// The program: a path, or with ``searchPath`` a name. It is looked up when everything else is in place: in the
    /// directory, as the user, in the namespaces that the process will have.
    public var path: String
    /// Directories to look a name without a slash up in, as PATH has them (execvp(3)); nil: ``path`` is a path.
    public var searchPath: String?
    /// A file in no format of the kernel's is given to the shell (ENOEXEC), as execvp(3) does.
    public var runsScripts = false
    /// Its arguments, the program's name first.
    public var arguments: [String]
    /// `NAME=value` strings.
    public var environment: [String]
    /// Working directory; nil: the caller's.
    public var directory: String?
    /// Descriptor `i` of the child is `descriptors[i]` of the caller.
    public var descriptors: [Int32]
    /// Namespaces to make (unshare(2)) in the child. With a user namespace the child waits until its id maps are written.
    public var namespaces: Namespaces = []
    /// Its own session (setsid(2)).
    public var newSession = false
    /// Its own process group in the caller's session.
    public var newGroup = false
    /// The child's descriptor that becomes its controlling terminal.
    public var controllingTerminal: Int32?
    /// The child's descriptor of the terminal whose foreground group it becomes.
    public var foregroundTerminal: Int32?
    /// Sent to it when the caller dies.
    public var deathSignal: Signal?
    /// Take user and group 0 once the id maps stand.
    public var becomeRoot = false
    /// Namespaces to enter (setns(2)), in this order, once everything is set that their owner may not set. Without an
    /// ``identity`` the process is root of the user namespace among them.
    public var entered: [Int32] = []
    /// User, group and supplementary groups to run as.
    public var identity: Identity?
    /// Limits to set (setrlimit(2)), in this order.
    public var limits: [ProcessLimit] = []
    /// What the kernel adds to its badness when memory runs out: -1000 to 1000.
    public var outOfMemoryAdjustment: Int32?
    /// Its nice value (setpriority(2)), and its file mode creation mask (umask(2)); nil: as this process's.
    public var nice: Int32?, fileMask: UInt32?
    /// The environment holds `LISTEN_PID=` and digits, to be overwritten with the process's own id (sd_listen_fds(3)).
    public var writesListenPid = false
    /// Hand the program signals and descriptors as this process found them, with this mask of blocked signals: for an
    /// init that nobody should notice. nil: nothing blocked or ignored, and the placed descriptors only.
    public var inheritedSignalMask: UInt64?
    /// Set no_new_privs before exec.
    public var forbidNewPrivileges = false
    /// A `cgroup.procs` file to write itself into first.
    public var cgroupProcs: Int32?

    /// A plan that only starts the program.
    public init(path: String, arguments: [String], environment: [String], descriptors: [Int32]) {
        self.path = path
        self.arguments = arguments
        self.environment = environment
        self.descriptors = descriptors
    }

    /// A plan for a command line whose first word is looked up in the PATH of its environment.
    public init(command: [String], environment: [String], descriptors: [Int32] = []) {
        self.init(path: command.first ?? "", arguments: command, environment: environment, descriptors: descriptors)
        searchPath = environment.last { $0.hasPrefix("PATH=") }.map { String($0.dropFirst(5)) } ?? ""
    }

    /// The paths to try, in this order.
    var candidates: [String] {
        guard let searchPath, !path.utf8.contains(UInt8(ascii: "/")) else { return [path] }
        if path.isEmpty { return [] }
        return searchPath.split(separator: ":", omittingEmptySubsequences: false).map {
            $0.isEmpty ? path : "\($0)/\(path)"
        }
    }
}

extension KernelError {
    /// What a shell ends with when this kept it from starting a program: 127 for what is not there, 126 for what cannot be
    /// executed.
    public var shellCode: UInt8 { errno == .noSuchFileOrDirectory ? 127 : 126 }
}

/// A limit of setrlimit(2).
public struct ProcessLimit: Hashable, Sendable {
    /// What is limited; the numbers are the kernel's.
    public enum Resource: Int32, Sendable, CaseIterable {
        case cpu, fsize, data, stack, core, rss, nproc, nofile, memlock, addressSpace, locks, sigpending, msgqueue,
            nice, rtprio, rttime

        /// The limit that `ulimits` and Compose call so; nil for none.
        public init?(name: String) {
            guard let found = Self.allCases.first(where: { "\($0)" == name }) else { return nil }
            self = found
        }
    }
    /// What is limited.
    public var resource: Resource
    /// `.max` is unlimited.
    public var soft: UInt64, hard: UInt64

    /// A limit.
    public init(_ resource: Resource, soft: UInt64, hard: UInt64) {
        self.resource = resource
        self.soft = soft
        self.hard = hard
    }
}

/// Ids a process runs with.
public struct Identity: Hashable, Sendable {
    public var uid: UInt32, gid: UInt32
    /// Supplementary groups.
    public var groups: [UInt32]
    /// Ids to run with.
    public init(uid: UInt32, gid: UInt32, groups: [UInt32] = []) {
        self.uid = uid
        self.gid = gid
        self.groups = groups
    }
}

/// Starts a program and returns its pid once exec has succeeded. `prepare` gets the pid while the child waits: for its id
/// maps, if the plan makes a user namespace; else before it does anything. Dies the caller before it returns, the child
/// ends too and the program never runs. `deadline` bounds each wait for the child.
public func spawn(
    _ plan: SpawnPlan, deadline: Duration = .seconds(5), prepare: ((Int32) throws(KernelError) -> Void)? = nil
) throws(KernelError) -> Int32 {
    var result = ck_spawn_result()
    let makesUsers = plan.namespaces.contains(.user)
    let awaitsGo = prepare != nil && !makesUsers
    let begun = unsafe withSpawnPlan(plan, awaitsGo: awaitsGo) { unsafe ck_spawn_begin($0, &result) }
    try throwStep(begun, result.step, plan)
    let milliseconds = deadline.millisecondsRoundedUp
    if makesUsers { try throwStep(unsafe ck_spawn_unshared(&result, milliseconds), result.step, plan) }
    if makesUsers || awaitsGo {
        do {
            try prepare?(result.pid)
        } catch {
            send(.kill, to: result.pid)
            _ = unsafe ck_spawn_go(&result, milliseconds)
            throw error
        }
    }
    try throwStep(unsafe ck_spawn_go(&result, milliseconds), result.step, plan)
    return result.pid
}

private func throwStep(_ result: Int32, _ step: Int32, _ plan: SpawnPlan) throws(KernelError) {
    if result >= 0 { return }
    let errno = Errno(rawValue: -result)
    let (call, subject): (String, String) =
        switch step {
        case 1: ("fork", "")
        case 2: ("make namespaces", plan.namespaces.description)
        case 3: ("become root of the user namespace", "")
        case 4: ("make a session for", plan.path)
        case 5: ("take the terminal for", plan.path)
        case 6: ("place descriptors for", plan.path)
        case 7: ("set the limits (ulimits) of", plan.path)
        case 11: ("set oom_score_adj of", plan.path)
        case 12: ("set the nice value of", plan.path)
        case 8: ("become user", plan.identity.map { "\($0.uid):\($0.gid)" } ?? "")
        case 9: ("enter directory", plan.directory ?? "")
        case 10: (errno == .noSuchFileOrDirectory ? "find" : "execute", plan.path)
        case 13: ("find the interpreter of", plan.path)
        case 14: ("enter the namespaces for", plan.path)
        default: ("start", plan.path)
        }
    throw KernelError(call: call, subject: subject, errno: errno)
}

/// Lays the plan out as the C structure for the time of `body`.
private func withSpawnPlan<R>(
    _ plan: SpawnPlan, awaitsGo: Bool, _ body: (UnsafePointer<ck_spawn_plan>) -> R
) -> R {
    unsafe withCStringArray(plan.arguments) { argv in
        unsafe withCStringArray(plan.environment) { envp in
            unsafe withCStringArray(plan.candidates) { candidates in
                unsafe withOptionalCString(plan.directory) { directory in
                    unsafe plan.descriptors.withUnsafeBufferPointer { fds in
                        unsafe (plan.identity?.groups ?? []).withUnsafeBufferPointer { groups in
                            unsafe plan.entered.withUnsafeBufferPointer { entered in
                                var raw = unsafe ck_spawn_plan()
                                unsafe raw.enter = entered.baseAddress
                                unsafe raw.enter_count = CInt(entered.count)
                                unsafe raw.candidates = candidates
                                unsafe raw.argv = argv
                                unsafe raw.envp = envp
                                unsafe raw.directory = directory
                                unsafe raw.fds = fds.baseAddress
                                unsafe raw.fd_count = CInt(fds.count)
                                unsafe raw.unshare_flags = plan.namespaces.rawValue
                                unsafe raw.await_go = awaitsGo ? 1 : 0
                                unsafe raw.new_session = plan.newSession ? 1 : 0
                                unsafe raw.new_group = plan.newGroup ? 1 : 0
                                unsafe raw.controlling_terminal = plan.controllingTerminal ?? -1
                                unsafe raw.foreground_terminal = plan.foregroundTerminal ?? -1
                                unsafe raw.death_signal = plan.deathSignal?.rawValue ?? 0
                                unsafe raw.become_root = plan.becomeRoot ? 1 : 0
                                if let identity = plan.identity {
                                    unsafe raw.set_ids = 1
                                    unsafe raw.uid = identity.uid
                                    unsafe raw.gid = identity.gid
                                    unsafe raw.groups = groups.baseAddress
                                    unsafe raw.group_count = CInt(groups.count)
                                }
                                if let adjustment = plan.outOfMemoryAdjustment {
                                    unsafe raw.set_oom_score_adj = 1
                                    unsafe raw.oom_score_adj = adjustment
                                }
                                unsafe raw.set_nice = plan.nice == nil ? 0 : 1
                                unsafe raw.nice = plan.nice ?? 0
                                unsafe raw.set_umask = plan.fileMask == nil ? 0 : 1
                                unsafe raw.umask = plan.fileMask ?? 0
                                unsafe raw.transparent = plan.inheritedSignalMask == nil ? 0 : 1
                                unsafe raw.signal_mask = plan.inheritedSignalMask ?? 0
                                unsafe raw.run_scripts = plan.runsScripts ? 1 : 0
                                unsafe raw.listen_pid = plan.writesListenPid ? 1 : 0
                                unsafe raw.no_new_privileges = plan.forbidNewPrivileges ? 1 : 0
                                unsafe raw.cgroup_procs = plan.cgroupProcs ?? -1
                                let limits = plan.limits.map {
                                    ck_limit(resource: $0.resource.rawValue, soft: $0.soft, hard: $0.hard)
                                }
                                return unsafe limits.withUnsafeBufferPointer { limits in
                                    unsafe raw.limits = limits.baseAddress
                                    unsafe raw.limit_count = CInt(limits.count)
                                    return unsafe withUnsafePointer(to: &raw) { unsafe body($0) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

private func withOptionalCString<R>(_ text: String?, _ body: (UnsafePointer<CChar>?) -> R) -> R {
    if let text { return unsafe text.withCString { unsafe body($0) } }
    return body(nil)
}

/// The strings as a NULL-terminated array of C strings in one allocation.
private func withCStringArray<R>(
    _ strings: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>?) -> R
) -> R {
    var bytes: [CChar] = []
    var offsets: [Int] = []
    for string in strings {
        offsets.append(bytes.count)
        bytes += string.utf8.map { CChar(bitPattern: $0) }
        bytes.append(0)
    }
    if bytes.isEmpty { bytes.append(0) }
    return unsafe bytes.withUnsafeMutableBufferPointer { storage in
        var pointers: [UnsafeMutablePointer<CChar>?] = unsafe offsets.map {
            unsafe storage.baseAddress?.advanced(by: $0)
        }
        unsafe pointers.append(nil)
        return unsafe pointers.withUnsafeBufferPointer { unsafe body($0.baseAddress) }
    }
}

/// The environment of this process as `NAME=value` strings.
public func currentEnvironment() -> [String] {
    (try? Files.read("/proc/self/environ"))?.split(separator: 0).map { String(decoding: $0, as: UTF8.self) } ?? []
}
