public import Kernel
internal import SystemPackage

/// The workspace's end of the link, handed out by ring1.
public struct LinkHandles {
    /// The tap device, or the packet socket.
    public let tap: Descriptor
    /// A sock_diag socket of the workspace's network namespace.
    public let listeners: Descriptor
    /// A ``RouteQuery``'s socket of the workspace's network namespace.
    public let routes: Descriptor
    /// Which offloads the link has.
    public let checksum: Bool, tso: Bool, uso: Bool
    /// It is a packet socket.
    public let isPacketLink: Bool
}

/// ring0's side of bringing the rings up, in three steps: ``start(_:configuration:report:)`` until the link is there,
/// ``awaitReady()`` until the new root stands, ``go()`` to start the supervisor. Between the steps the forwarder starts.
public struct Ring0 {
    /// ring1's process.
    public let pid: Int32
    /// The channel to ring1; its end means that ring1 is gone.
    public let channel: Channel
    /// The link, with a network of its own that has one.
    public let link: LinkHandles?
    /// How the ids were mapped; nil: they are the container's.
    public let idMap: IDMap?
    private static let deadline = Duration.seconds(10)

    /// Starts ring1 in its namespaces, writes its id maps, sends the plan, and waits for the link if there is one.
    ///
    /// - Parameters:
    ///   - configuration: what the supervisor finds at ``StageDescriptor/configuration``.
    ///   - report: what the supervisor finds at ``StageDescriptor/report``.
    ///   - note: told of each thing that a stage did in a lesser way.
    public static func start(
        _ plan: RingPlan, configuration: Descriptor, report: Descriptor, note: (String) -> Void
    ) throws(StageFailure) -> Ring0 {
        var idMap = plan.isolation == .superviseOnly ? nil : IDMap.choose(situation())
        var launched: (pid: Int32, channel: Channel)
        do throws(KernelError) { launched = try launch(plan, idMap, configuration, report) } catch {
            // newuidmap is there and cannot: setuid programs are dead under no_new_privs, for example.
            guard idMap?.method == .helper, error.call != "make namespaces" else { throw StageFailure("ring0", error) }
            note("\(error): only this user's own id is mapped")
            idMap = IDMap.choose(situation(withHelpers: false))
            do { launched = try launch(plan, idMap, configuration, report) } catch {
                throw StageFailure("ring0", error)
            }
        }
        var link: LinkHandles?
        while plan.link != nil, link == nil {
            if case .link(let handles) = try next(launched, note: note) { link = handles }
        }
        return Ring0(pid: launched.pid, channel: launched.channel, link: link, idMap: idMap)
    }

    /// ring1 in its namespaces, with its ids and its plan. Its end of the channel is its alone once this returns, so that
    /// its death shows.
    private static func launch(
        _ plan: RingPlan, _ idMap: IDMap?, _ configuration: Descriptor, _ report: Descriptor
    ) throws(KernelError) -> (pid: Int32, channel: Channel) {
        let (ours, theirs) = try Channel.pair()
        var spawnPlan = SpawnPlan(
            path: "/proc/self/exe", arguments: ["workspacekit", "ring1"], environment: currentEnvironment(),
            descriptors: [0, 1, 2, theirs.descriptor.number, configuration.number, report.number])
        var plan = plan
        if let idMap {
            spawnPlan.namespaces = [.user, .mount]
            spawnPlan.becomeRoot = true
            plan.workspaceIDs = idMap.workspace
        }
        spawnPlan.deathSignal = .kill
        let pid = try spawn(spawnPlan, deadline: deadline) { (pid) throws(KernelError) in
            if let idMap { try write(idMap, to: pid) }
        }
        withExtendedLifetime((theirs, configuration, report)) {}
        try ours.send(.plan(plan))
        return (pid, ours)
    }

    /// The next message that is neither a note nor a failure.
    private static func next(_ ring1: (pid: Int32, channel: Channel), note: (String) -> Void) throws(StageFailure)
        -> RingMessage
    {
        while true {
            let message: RingMessage?
            do { message = try ring1.channel.next(within: deadline) } catch { throw StageFailure("ring0", error) }
            switch message {
            case .note(let text)?: note(text)
            case .failed(let failure)?: throw failure
            case nil: throw ended(ring1.pid)
            case let message?: return message
            }
        }
    }

    /// ring1 closed its channel without saying why: the way it ended is all there is.
    private static func ended(_ pid: Int32) -> StageFailure {
        var how = "it still runs"
        for _ in 0..<1000 {
            if case .ended(_, let status) = reap(pid) {
                how = status.description
                break
            }
            pause(.milliseconds(1))
        }
        return StageFailure(
            stage: "ring1", underlying: KernelError(call: "hear from the stage", errno: .connectionReset),
            cure: "it ended: \(how)")
    }

    /// Waits until ring2 has the workspace's root; nothing of the user's runs yet.
    public func awaitReady(note: (String) -> Void) throws(StageFailure) {
        while true {
            if case .ready = try Self.next((pid, channel), note: note) { return }
        }
    }

    /// Lets ring2 start the supervisor.
    public func go() throws(StageFailure) {
        do { try channel.send(.go) } catch { throw StageFailure("ring0", error) }
    }

    // MARK: id maps

    /// Whether root inside would be the machine's root, whose id the kernel trusts in /proc/sys, /sys and cgroups.
    ///
    /// KERNEL: a file of /proc/sys belongs to the machine's root, and shows another owner wherever that id is not mapped.
    public static var mapsMachineRoot: Bool {
        let map = IDMap.choose(situation())
        guard map.method == .direct, map.users.contains(where: { $0.inside == 0 && $0.outside == 0 }) else {
            return false
        }
        return (Files.status("/proc/sys/kernel/core_pattern") ?? Files.status("/proc/sys"))?.uid == 0
    }

    static func situation(withHelpers: Bool = true) -> IDMap.Situation {
        let uid = CurrentProcess.effectiveUser
        let helpers = withHelpers && ["newuidmap", "newgidmap"].allSatisfy { findExecutable($0) != nil }
        return IDMap.Situation(
            uid: uid, gid: CurrentProcess.group,
            maySetIDs: Capabilities.has(.setuid) && Capabilities.has(.setgid), mayMapRoot: Capabilities.has(.setfcap),
            uidMap: Files.text("/proc/self/uid_map") ?? "", gidMap: Files.text("/proc/self/gid_map") ?? "",
            subuid: Files.text("/etc/subuid") ?? "", subgid: Files.text("/etc/subgid") ?? "",
            userName: UserDatabase.system.user(id: uid)?.name, hasHelpers: helpers)
    }

    static func write(_ map: IDMap, to pid: Int32) throws(KernelError) {
        switch map.method {
        case .direct, .single:
            if map.method == .single { try Files.writeKernelFile("/proc/\(pid)/setgroups", "deny") }
            try IDRange.write(users: map.users, groups: map.groups, of: pid)
        case .helper:
            try runHelper("newgidmap", pid, map.groups)
            try runHelper("newuidmap", pid, map.users)
        }
    }

    private static func runHelper(_ name: String, _ pid: Int32, _ ranges: [IDRange]) throws(KernelError) {
        guard let path = findExecutable(name) else {
            throw KernelError(call: "find", subject: name, errno: .noSuchFileOrDirectory)
        }
        let numbers = ranges.flatMap { ["\($0.inside)", "\($0.outside)", "\($0.count)"] }
        let helper = try spawn(
            SpawnPlan(
                path: path, arguments: [name, "\(pid)"] + numbers, environment: currentEnvironment(),
                descriptors: [0, 2, 2]))
        for _ in 0..<5000 {
            switch reap(helper) {
            case .ended(_, .exited(0)): return
            case .ended, .noChildren:
                throw KernelError(
                    call: "write /proc/\(pid)/\(name.dropFirst(3))", subject: "with \(name)", errno: .notPermitted)
            case .nothingYet, .stopped: pause(.milliseconds(1))
            }
        }
        throw KernelError(call: "wait for", subject: name, errno: .timedOut)
    }
}

extension Ring0 {
    /// What a stage has to say while the workspace runs.
    public enum News {
        /// Something that a user should know.
        case note(String)
        /// TCP sockets of the workspace's network, as asked for.
        case sockets([Descriptor])
    }

    /// What ``nextNews()`` found.
    public enum NewsArrival {
        case news(News)
        /// There is none.
        case nothingYet
        /// ring1 has closed the channel, or speaks something else.
        case closed
    }

    /// The next of it. Never waits.
    public func nextNews() -> NewsArrival {
        switch channel.next() {
        case .message(.note(let text)): .news(.note(text))
        case .message(.failed(let failure)): .news(.note("\(failure)"))
        case .message(.sockets(let sockets)): .news(.sockets(sockets))
        case .nothingYet: .nothingYet
        case .message, .closed: .closed
        }
    }

    /// The container's files have changed: these texts stand in the workspace's from now on, by path, where it has not edited
    /// them.
    public func tell(files: [String: String]) { try? channel.send(.files(files)) }

    /// Asks for sockets of the workspace's network: ``News/sockets(_:)``.
    public func askForSockets() { try? channel.send(.socketsWanted) }
}

extension StageFailure {
    /// What is to be given up where this was refused; nil: nothing helps.
    ///
    /// A fresh /proc is refused where the container's is masked. Namespaces, mounts and id maps are refused by seccomp,
    /// AppArmor, sysctls, or for want of capabilities.
    public var wayOut: Isolation? {
        let call = underlying.call
        guard [.notPermitted, .permissionDenied, .noSpace, .tooManyUsers].contains(underlying.errno) else { return nil }
        if call.hasPrefix("mount proc") { return .sharedProcesses }
        let isRefused =
            call == "make namespaces" || call.hasPrefix("mount") || call.hasPrefix("bind")
            || call.hasPrefix("change the mount") || call == "pivot_root to"
            || call.hasPrefix("write")
                && underlying.subject.hasSuffix("_map")
        return isRefused ? .superviseOnly : nil
    }
}
