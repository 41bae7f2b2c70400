/// What a workspace needs of its container, or is better with.
public enum Feature: String, Sendable, CaseIterable {
    case users = "user namespaces"
    case ids = "id maps"
    case ownRoot = "root of its own"
    case mounts = "mounts"
    case root = "pivot_root"
    case proc = "fresh /proc"
    case sys = "fresh /sys"
    case terminals = "terminals"
    case tap = "tap device"
    case packet = "packet link"
    case addresses = "addresses"
    case netfilter = "nftables"
    case ping = "ping"
    case lowPorts = "low ports"
    case cgroup = "cgroup2"
    case controllers = "cgroup controllers"
    case overlay = "overlayfs"
    case fuse = "/dev/fuse"
    case chroot = "chroot"
    case containers = "runc inside"
    case nesting = "nested namespaces"
    case notification = "seccomp notify"
    case files = "open files"

    /// What one lacks without it.
    public var cost: String {
        switch self {
        case .users: "no workspace of its own: tasks and services are only supervised (supervise-only)"
        case .ids: "only one user inside: apt, su, sudo and dockerd do not work"
        case .ownRoot: "/proc/sys, /sys and cgroups are read-only inside; no containers inside (masked)"
        case .mounts, .root: "no file system of its own, so no workspace of its own (supervise-only)"
        case .proc: "the workspace shares the container's process numbers (shared-pid); no containers inside"
        case .sys: "the workspace sees the container's /sys; no containers inside"
        case .terminals: "no terminals of its own"
        case .tap: "the link is a packet socket, a little slower; VPNs inside have no tun device"
        case .packet: "no network of its own where there is no tap device either"
        case .addresses: "the workspace cannot reach what the container reaches there"
        case .netfilter: "dockerd cannot set up its bridge"
        case .ping: "ping to the outside is refused inside"
        case .lowPorts: "ports below 1024 cannot be forwarded by their number"
        case .cgroup: "container engines inside do not start"
        case .controllers: "mem_limit, cpus and pids_limit have no effect"
        case .overlay: "dockerd inside falls back to fuse-overlayfs or vfs, which are slow"
        case .fuse: "no fuse-overlayfs and no FUSE file systems inside"
        case .chroot: "dockerd cannot unpack images"
        case .containers: "runc cannot start containers inside"
        case .nesting: "no sandboxes inside: bubblewrap, Chromium's, a workspace in a workspace"
        case .notification: "nothing today; network.bypass will need it"
        case .files: "fewer connections at once, fewer containers"
        }
    }

    /// Whether a workspace is not one without it; else it is only less.
    public var isEssential: Bool {
        switch self {
        case .users, .ids, .mounts, .root, .proc: true
        default: false
        }
    }

    /// What gives it, in a container and on a machine.
    public var cure: Cure {
        var cure = containerCure
        cure.host = cure.host ?? machineCure
        return cure
    }

    /// What gives it on one's own machine, where no flag of a container does; nil where nothing has to be done there.
    private var machineCure: String? {
        switch self {
        case .tap: "modprobe tun && chmod 0666 /dev/net/tun"
        case .fuse: "modprobe fuse"
        case .ping: "sysctl -w net.ipv4.ping_group_range=\"0 65535\""
        case .lowPorts: "sysctl -w net.ipv4.ip_unprivileged_port_start=0"
        case .files: "ulimit -Hn 1048576 as root; nofile in /etc/security/limits.conf"
        case .ownRoot: "run it as an ordinary user who has a range in /etc/subuid and /etc/subgid"
        case .controllers, .cgroup: "systemd-run --user --scope -p Delegate=yes workspacekit run"
        default: nil
        }
    }

    /// What gives it in a container.
    private var containerCure: Cure {
        switch self {
        case .users, .mounts, .root, .terminals, .nesting, .containers:
            Cure(
                docker: "--security-opt seccomp=deploy/seccomp.json --security-opt apparmor=unconfined",
                compose: "security_opt: [seccomp=deploy/seccomp.json, apparmor=unconfined]",
                podman: "--security-opt seccomp=deploy/seccomp.json",
                kubernetes: "hostUsers: false, securityContext.seccompProfile: {type: Localhost, localhostProfile: …}")
        case .ids:
            Cure(
                docker: "--user 0 --cap-add SETUID --cap-add SETGID",
                compose: "user: \"0\", cap_add: [SETUID, SETGID]",
                podman: "--user 0 --cap-add SETUID,SETGID",
                kubernetes: "securityContext: {runAsUser: 0, capabilities: {add: [SETUID, SETGID]}}")
        case .ownRoot:
            Cure(
                docker: "an image whose user is not root, as the Dockerfile makes it, or userns-remap in daemon.json",
                compose: "an image whose user is not root, as the Dockerfile makes it, or userns-remap in daemon.json",
                podman: "--userns=auto, or podman as an ordinary user", kubernetes: "hostUsers: false")
        case .proc, .sys:
            Cure(
                docker: "--security-opt systempaths=unconfined",
                compose: "security_opt: [systempaths=unconfined]",
                podman: "--security-opt unmask=ALL",
                kubernetes: "hostUsers: false, securityContext.procMount: Unmasked")
        case .tap:
            Cure(
                docker: "--device /dev/net/tun", compose: "devices: [/dev/net/tun]", podman: "--device /dev/net/tun",
                kubernetes: "a device plugin for /dev/net/tun, and its resource in limits")
        case .fuse:
            Cure(
                docker: "--device /dev/fuse", compose: "devices: [/dev/fuse]", podman: "--device /dev/fuse",
                kubernetes: "a device plugin for /dev/fuse, and its resource in limits")
        case .ping:
            Cure(
                docker: "--sysctl net.ipv4.ping_group_range=\"0 65535\"",
                compose: "sysctls: {net.ipv4.ping_group_range: \"0 65535\"}",
                podman: "--sysctl net.ipv4.ping_group_range=\"0 65535\"",
                kubernetes: "securityContext.sysctls: [{name: net.ipv4.ping_group_range, value: \"0 65535\"}]")
        case .lowPorts:
            Cure(
                docker: "--sysctl net.ipv4.ip_unprivileged_port_start=0",
                compose: "sysctls: {net.ipv4.ip_unprivileged_port_start: 0}",
                podman: "--sysctl net.ipv4.ip_unprivileged_port_start=0",
                kubernetes: "securityContext.sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"0\"}]")
        case .controllers, .cgroup:
            Cure(
                docker: "--cgroupns private, and /sys/fs/cgroup writable (see docs/operations.md)",
                compose: "cgroup: private, and /sys/fs/cgroup writable",
                podman: "--cgroupns private --security-opt unmask=/sys/fs/cgroup",
                kubernetes: "hostUsers: false with cgroup2 on the node")
        case .overlay:
            Cure(
                docker: "-v data:/var/lib/docker", compose: "volumes: [\"data:/var/lib/docker\"]",
                podman: "-v data:/var/lib/docker", kubernetes: "an emptyDir or a claim at /var/lib/docker")
        case .chroot:
            Cure(
                docker: "--cap-add SYS_CHROOT", compose: "cap_add: [SYS_CHROOT]", podman: "--cap-add SYS_CHROOT",
                kubernetes: "securityContext.capabilities.add: [SYS_CHROOT]")
        case .files:
            Cure(
                docker: "--ulimit nofile=1048576", compose: "ulimits: {nofile: 1048576}",
                podman: "--ulimit nofile=1048576", kubernetes: "LimitNOFILE of the node's container runtime")
        case .addresses: Cure(configuration: "network.cidr: auto, or a network that the container does not use")
        case .packet, .netfilter, .notification: Cure(host: "a kernel that has it")
        }
    }
}

/// What gives a feature, in the words of those who start containers.
public struct Cure: Hashable, Sendable, Encodable {
    /// A flag of `docker run` or `podman run`; a line of a Compose service or of a pod.
    public var docker: String?, compose: String?, podman: String?, kubernetes: String?
    /// What is to be done on the machine itself.
    public var host: String?
    /// What the workspace's own configuration is to say.
    public var configuration: String?
}

/// Whether a feature is there.
public enum Outcome: Hashable, Sendable {
    /// It is; what was seen of it.
    case present(String)
    /// In a lesser way.
    case lesser(String)
    /// It is not, and why.
    case absent(String)
}

/// A feature, as it was found.
public struct Finding: Hashable, Sendable {
    /// Of what.
    public let feature: Feature
    /// Whether it is there.
    public let outcome: Outcome
    /// What gives it, where it is not as it could be. A sysctl of the machine's beats the container's flags.
    public let cure: Cure?

    init(_ feature: Feature, _ outcome: Outcome, host: String? = nil) {
        self.feature = feature
        self.outcome = outcome
        if case .present = outcome { cure = nil } else { cure = host.map { Cure(host: $0) } ?? feature.cure }
    }

    /// It is as it should be.
    public var isPresent: Bool { if case .present = outcome { true } else { false } }
    /// It is not there at all.
    public var isAbsent: Bool { if case .absent = outcome { true } else { false } }
}

/// Everything that was found.
public struct Diagnosis: Hashable, Sendable {
    /// In the order of ``Feature``.
    public let findings: [Finding]

    init(_ findings: [Finding]) {
        let order = Dictionary(uniqueKeysWithValues: Feature.allCases.enumerated().map { ($1, $0) })
        self.findings = findings.sorted { order[$0.feature, default: 0] < order[$1.feature, default: 0] }
    }

    private func lacks(_ feature: Feature) -> Bool { findings.contains { $0.feature == feature && $0.isAbsent } }

    /// What `run` would choose.
    public var isolation: Isolation {
        if [Feature.users, .ids, .mounts, .root].contains(where: lacks) { return .superviseOnly }
        if lacks(.proc) { return .sharedProcesses }
        return findings.contains { $0.feature == .ownRoot && !$0.isPresent } ? .masked : .full
    }

    /// What carries its frames; nil: the network is the container's.
    public var link: LinkKind? {
        if isolation == .superviseOnly { return nil }
        return !lacks(.tap) ? .tap : !lacks(.packet) ? .packet : nil
    }
}
