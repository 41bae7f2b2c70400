internal import Kernel
internal import SystemPackage

/// Finds out what this container allows. Nothing is left behind.
public enum Doctor {
    private static let deadline = Duration.seconds(10)

    /// Everything, in a second or two at most. `addresses`: whether the workspace's are free here.
    public static func examine(addresses: Outcome) -> Diagnosis {
        var findings = outside() + [Finding(.addresses, addresses)]
        var idMap = IDMap.choose(Ring0.situation())
        do throws(KernelError) {
            var refusal = ""
            var launched: (pid: Int32, channel: Channel)
            do throws(KernelError) { launched = try launch(idMap) } catch {
                guard idMap.method == .helper, error.call != "make namespaces" else { throw error }
                refusal = "\(error)"
                idMap = IDMap.choose(Ring0.situation(withHelpers: false))
                launched = try launch(idMap)
            }
            let (pid, ours) = launched
            defer {
                send(.kill, to: pid)
                awaitEnd(pid)
            }
            findings.append(Finding(.users, .present("")))
            findings.append(ids(idMap, refusal))
            findings.append(
                Finding(.ownRoot, Ring0.mapsMachineRoot ? .lesser("root inside is the machine's root") : .present("")))
            while let message = try ours.receive(within: deadline) {
                if let finding = finding(message) { findings.append(finding) }
            }
        } catch {
            if !findings.contains(where: { $0.feature == .users }) { findings += refused(error, idMap) }
        }
        for feature in Feature.allCases where !findings.contains(where: { $0.feature == feature }) {
            findings.append(Finding(feature, .absent("not tried: there is no user namespace to try it in")))
        }
        return Diagnosis(findings)
    }

    /// The child that tries. Its end of the channel is its alone once this returns, so that its end shows.
    private static func launch(_ idMap: IDMap) throws(KernelError) -> (pid: Int32, channel: Channel) {
        let (ours, theirs) = try Channel.pair()
        var plan = SpawnPlan(
            path: "/proc/self/exe", arguments: ["workspacekit", "examine"], environment: currentEnvironment(),
            descriptors: [0, 2, 2, theirs.descriptor.number])
        plan.namespaces = [.user, .mount, .ipc, .uts, .cgroup, .network]
        plan.becomeRoot = true
        plan.deathSignal = .kill
        func start() throws(KernelError) -> Int32 {
            try spawn(plan, deadline: deadline) { (pid) throws(KernelError) in try Ring0.write(idMap, to: pid) }
        }
        let pid: Int32
        do throws(KernelError) { pid = try start() } catch {
            // In a workspace whose root is the machine's there are no cgroup namespaces.
            guard error.call == "make namespaces" else { throw error }
            plan.namespaces.remove(.cgroup)
            pid = try start()
        }
        withExtendedLifetime(theirs) {}
        return (pid, ours)
    }

    private static func finding(_ message: ChannelMessage) -> Finding? {
        let f = message.fields
        guard message.kind == "found", f.count == 3, let feature = Feature(rawValue: f[0]) else { return nil }
        switch f[1] {
        case "present": return Finding(feature, .present(f[2]))
        case "lesser": return Finding(feature, .lesser(f[2]))
        default: return Finding(feature, .absent(f[2]))
        }
    }

    /// No user namespace, or no ids in it: which gate is shut.
    private static func refused(_ error: KernelError, _ map: IDMap) -> [Finding] {
        if error.call != "make namespaces" {
            return [Finding(.users, .present("")), Finding(.ids, .absent("\(error)"), host: nil)]
        }
        return [Finding(.users, .absent("\(error)"), host: gate())]
    }

    /// A sysctl of the machine's that forbids user namespaces; nil where it is the container.
    static func gate() -> String? {
        func value(_ path: String) -> String? {
            Files.text("/proc/sys/" + path).map { $0.filter { !$0.isNewline } }
        }
        if value("user/max_user_namespaces") == "0" { return "sysctl user.max_user_namespaces=15000" }
        if value("kernel/unprivileged_userns_clone") == "0" { return "sysctl kernel.unprivileged_userns_clone=1" }
        if value("kernel/apparmor_restrict_unprivileged_userns") == "1" {
            return "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with userns"
        }
        return nil
    }

    private static func ids(_ map: IDMap, _ refusal: String) -> Finding {
        let count = map.users.reduce(0) { $0 + Int($1.count) }
        switch map.method {
        case .direct: return Finding(.ids, .present("\(count) users, written by ourselves"))
        case .helper: return Finding(.ids, .present("\(count) users, by newuidmap"))
        case .single:
            if !refusal.isEmpty { return Finding(.ids, .lesser("one user only: \(refusal)")) }
            return Finding(
                .ids, .lesser("one user only"),
                host: CurrentProcess.effectiveUser == 0
                    ? nil : "apt install uidmap, and a range for this user in /etc/subuid and /etc/subgid")
        }
    }

    // MARK: what is seen without a namespace

    private static func outside() -> [Finding] {
        var findings: [Finding] = []
        let group = CurrentProcess.group
        let range = (Files.text("/proc/sys/net/ipv4/ping_group_range") ?? "").split {
            $0 == "\t" || $0 == " " || $0 == "\n"
        }
        .compactMap { UInt32($0) }
        let mayPing = range.count == 2 && range[0] <= group && group <= range[1]
        findings.append(
            Finding(.ping, mayPing ? .present("") : .absent("group \(group) is not in net.ipv4.ping_group_range")))
        let start = Int((Files.text("/proc/sys/net/ipv4/ip_unprivileged_port_start") ?? "").filter(\.isNumber)) ?? 1024
        findings.append(
            Finding(.lowPorts, start <= 80 ? .present("from \(start) on") : .lesser("from \(start) on only")))
        let hasFuse = Files.status("/dev/fuse")?.kind == .characterDevice
        findings.append(Finding(.fuse, hasFuse ? .present("") : .absent("there is no /dev/fuse")))
        let files = CurrentProcess.raiseOpenFilesLimit()
        findings.append(
            Finding(.files, files >= 65536 ? .present("\(files)") : .lesser("\(files) at most (RLIMIT_NOFILE)")))
        return findings
    }
}
