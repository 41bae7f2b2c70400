internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// What a container allows is found out by trying, in a child that lives for nothing else: root of namespaces of its own,
/// made as a workspace's are, so that nothing it mounts, makes or breaks is seen by anybody. Each trial reports over the
/// channel. What may take the child's root or /proc away comes last.
public enum Examination {
    /// The whole life of the child. Returns the exit code.
    public static func main(channel number: Int32) -> UInt8 {
        let channel = Channel(Descriptor(OwnedDescriptor(owning: number)))
        func report(_ feature: Feature, _ outcome: Outcome) {
            let (word, text) =
                switch outcome {
                case .present(let text): ("present", text)
                case .lesser(let text): ("lesser", text)
                case .absent(let text): ("absent", text)
                }
            try? channel.send(ChannelMessage("found", [feature.rawValue, word, text]))
        }
        func attempt(_ feature: Feature, _ trial: () throws(KernelError) -> String) {
            do throws(KernelError) { report(feature, .present(try trial())) } catch {
                report(feature, .absent("\(error)"))
            }
        }
        attempt(.chroot) { () throws(KernelError) in
            try Trials.chroot()
            return ""
        }
        attempt(.notification) { () throws(KernelError) in
            try Trials.notification()
            return ""
        }
        attempt(.containers) { () throws(KernelError) in
            try setHostName("doctor")
            try Trials.keyring()
            try enterNamespace(.network, try Files.open("/proc/self/ns/net", flags: 0))
            return ""
        }
        network(report)
        attempt(.nesting) { () throws(KernelError) in
            var plan = SpawnPlan(
                path: "/proc/self/exe", arguments: ["workspacekit", "examine"], environment: [], descriptors: [0, 2, 2])
            plan.namespaces = [.user, .mount]
            let pid = try spawn(plan) { (pid) throws(KernelError) in
                try Files.writeKernelFile("/proc/\(pid)/setgroups", "deny")
                try Files.writeKernelFile("/proc/\(pid)/gid_map", "0 0 1")
                try Files.writeKernelFile("/proc/\(pid)/uid_map", "0 0 1")
            }
            send(.kill, to: pid)
            awaitEnd(pid)
            return ""
        }
        mounts(report)
        return 0
    }

    private static func network(_ report: (Feature, Outcome) -> Void) {
        do throws(KernelError) {
            let tap = try Tap.open("doctor0", gso: true)
            let offloads = tap.segmentationOffload ? (tap.datagramOffload ? "TSO, USO" : "TSO") : ""
            report(.tap, offloads.isEmpty ? .lesser("without superpackets") : .present(offloads))
        } catch {
            let isThere = Files.status("/dev/net/tun")?.kind == .characterDevice
            report(
                .tap, .absent(isThere ? "/dev/net/tun is there, but: \(error)" : "there is no /dev/net/tun"))
        }
        do throws(KernelError) {
            let own = try Files.open("/proc/self/ns/net", flags: 0)
            try unshare(.network)
            let netlink = try RouteNetlink()
            try netlink.addPair("doctor1", peer: "doctor2", in: own)
            try netlink.bringUp("doctor1")
            _ = try PacketLink.open("doctor1")
            report(.packet, .present(""))
        } catch { report(.packet, .absent("\(error)")) }
        do throws(KernelError) {
            try Trials.netfilter()
            report(.netfilter, .present(""))
        } catch { report(.netfilter, .absent("\(error)")) }
    }

    private static func mounts(_ report: (Feature, Outcome) -> Void) {
        do throws(KernelError) {
            try Mounts.mount("none", on: "/", flags: [.isSlave, .recursive])
            try Mounts.mount("tmpfs", on: "/dev", type: "tmpfs", flags: .noSetuid, options: "mode=755,size=1024k")
            for name in ["pts", "cgroup", "lower", "upper", "work", "over", "root"] {
                try Files.makeDirectory("/dev/" + name)
            }
            report(.mounts, .present(""))
        } catch {
            report(.mounts, .absent("\(error)"))
            for feature in [Feature.root, .sys, .terminals, .cgroup, .overlay, .proc] {
                report(feature, .absent("not tried: nothing can be mounted"))
            }
            return
        }
        func attempt(_ feature: Feature, _ trial: () throws(KernelError) -> Outcome) {
            do throws(KernelError) { report(feature, try trial()) } catch { report(feature, .absent("\(error)")) }
        }
        attempt(.terminals) { () throws(KernelError) in
            try Mounts.mount(
                "devpts", on: "/dev/pts", type: "devpts", flags: [.noSetuid, .noExecute],
                options: "newinstance,ptmxmode=0666,mode=600")
            return .present("")
        }
        attempt(.cgroup) { () throws(KernelError) in
            try Mounts.mount("cgroup2", on: "/dev/cgroup", type: "cgroup2", flags: [.noSetuid, .noDevices, .noExecute])
            return .present("")
        }
        controllers(report)
        attempt(.overlay) { () throws(KernelError) in
            try Mounts.mount(
                "overlay", on: "/dev/over", type: "overlay",
                options: "lowerdir=/dev/lower,upperdir=/dev/upper,workdir=/dev/work,userxattr")
            return .present("")
        }
        attempt(.sys) { () throws(KernelError) in
            do throws(KernelError) {
                try Mounts.mount("sysfs", on: "/sys", type: "sysfs", flags: [.noSetuid, .noDevices, .noExecute])
                return .present("")
            } catch {
                try Mounts.mount(
                    "sysfs", on: "/sys", type: "sysfs", flags: [.readOnly, .noSetuid, .noDevices, .noExecute])
                return .present("read-only, as the container's is")
            }
        }
        attempt(.proc) { () throws(KernelError) in
            // /proc belongs to a PID namespace, and that is for children.
            try unshare(.pid)
            let (ours, theirs) = try Channel.pair()
            var plan = SpawnPlan(
                path: "/proc/self/exe", arguments: ["workspacekit", "examine", "proc"], environment: [],
                descriptors: [0, 2, 2, theirs.descriptor.number])
            plan.namespaces = .mount
            let pid = try spawn(plan)
            withExtendedLifetime(theirs) {}
            defer {
                send(.kill, to: pid)
                awaitEnd(pid)
            }
            guard let answer = try ours.receive(within: .seconds(5))?.fields.first, let errno = Int32(answer) else {
                throw KernelError(call: "hear from", subject: "the process that mounts proc", errno: .connectionReset)
            }
            if errno != 0 { throw KernelError(call: "mount proc on", subject: "/proc", errno: Errno(rawValue: errno)) }
            return .present("")
        }
        attempt(.root) { () throws(KernelError) in
            try Mounts.mount("/", on: "/dev/root", flags: [.bind, .recursive])
            try CurrentProcess.changeDirectory("/dev/root")
            try Mounts.pivotRootHere()
            try Mounts.detach(".")
            return .present("")
        }
    }

    private static func controllers(_ report: (Feature, Outcome) -> Void) {
        guard let text = Files.text("/dev/cgroup/cgroup.controllers") else {
            return report(.controllers, .absent("no cgroup2 to look at"))
        }
        let names = text.split { $0 == " " || $0 == "\n" }.map(String.init)
        let missing = ["cpu", "memory", "pids"].filter { !names.contains($0) }
        guard (try? Files.makeDirectory("/dev/cgroup/workspacekit-doctor")) != nil else {
            return report(.controllers, .absent("the container's cgroup may not be divided"))
        }
        Files.removeDirectory("/dev/cgroup/workspacekit-doctor")
        report(
            .controllers,
            missing.isEmpty
                ? .present(names.joined(separator: " "))
                : missing.count == 3
                    ? .absent("none of cpu, memory, pids is handed on")
                    : .lesser("without \(missing.joined(separator: ", "))"))
    }

    /// The grandchild that mounts /proc, first in a PID namespace. Returns the exit code.
    public static func mountProc(channel number: Int32) -> UInt8 {
        let channel = Channel(Descriptor(OwnedDescriptor(owning: number)))
        var errno: Int32 = 0
        do throws(KernelError) {
            try Mounts.mount("proc", on: "/proc", type: "proc", flags: [.noSetuid, .noDevices, .noExecute])
        } catch { errno = error.errno.rawValue }
        try? channel.send(ChannelMessage("mounted", ["\(errno)"]))
        return 0
    }
}
