public import Kernel

/// Where the workspace's packets go; gVisor's words.
public enum NetworkMode: String, Sendable, CaseIterable {
    /// A network of its own behind the forwarder.
    case sandbox
    /// The container's network.
    case host
    /// A network of its own with nothing but lo.
    case none
}

/// How much of the workspace is its own: what cannot be had is given up in this order.
public enum Isolation: String, Sendable, CaseIterable, Comparable {
    /// Users, mounts, processes, and what ``NetworkMode`` says.
    case full
    /// The same, but root inside is the machine's root, whose id the kernel trusts in /proc/sys, /sys and cgroups: these are
    /// read-only or hidden, and so no container inside gets a /proc of its own.
    case masked
    /// The PID namespace is the container's: its /proc is masked, so that no fresh one can be mounted.
    case sharedProcesses = "shared-pid"
    /// Nothing: the container may make no user namespaces, so tasks and services are only supervised.
    case superviseOnly = "supervise-only"

    /// Whether the workspace has a PID namespace: the kernel ends all that is in it with its PID 1.
    public var hasOwnProcesses: Bool { self == .full || self == .masked }

    /// The more is given up, the greater.
    public static func < (a: Isolation, b: Isolation) -> Bool {
        let order = allCases
        return (order.firstIndex(of: a) ?? 0) < (order.firstIndex(of: b) ?? 0)
    }
}

/// What carries the workspace's frames to the forwarder.
public enum LinkKind: String, Sendable, CaseIterable {
    /// A tap device where there is one, else a packet socket.
    case auto
    /// A tap device.
    case tap
    /// A packet socket on the other end of a pair of interfaces: needs no device.
    case packet
}

/// The workspace's end of the link and its addresses.
public struct LinkPlan: Hashable, Sendable {
    /// The interface's name in the workspace.
    public var name = "tap0"
    /// What it is made of.
    public var kind = LinkKind.auto
    /// Its MTU.
    public var mtu = 1500
    /// Superpackets wanted.
    public var gso = true
    /// Its hardware address.
    public var hardwareAddress: [UInt8] = [0x02, 0x57, 0x4b, 0x00, 0x02, 0x64]
    /// Its addresses.
    public var addresses: [Subnet]
    /// Its routes, besides those that come with the addresses.
    public var routes: [Route]
    /// Entries of the interface's queue towards the forwarder. Superpackets or not, a window must fit in it.
    public var queueLength = 8192

    /// A link with these addresses.
    public init(addresses: [Subnet], routes: [Route]) {
        self.addresses = addresses
        self.routes = routes
    }
}

/// Everything ring1 and ring2 do, as data: written by ring0, sent over the channel, then applied.
public struct RingPlan: Hashable, Sendable {
    /// The workspace's network.
    public var network: NetworkMode
    /// The link, with ``NetworkMode/sandbox``.
    public var link: LinkPlan?
    /// An empty directory of the container over which the new root is assembled.
    public var stagingDirectory: String
    /// The host name inside.
    public var hostName: String
    /// Contents of the workspace's own /etc/resolv.conf and /etc/hosts; nil leaves the container's.
    public var resolvConf: String?, hosts: String?
    /// What of the container's files the workspace sees, and where it may write.
    public var filesystem = FilesystemPlan()
    /// A directory with the commands that the workspace brings, for shells that choose a PATH of their own; nil for none.
    public var commands: String?
    /// What of it all is the workspace's own.
    public var isolation = Isolation.full
    /// Root inside is the machine's root, and is to be kept from the machine's files.
    public var masksMachine = false
    /// A policy restricts where the workspace may connect to, so that no way around the network namespace may stay open.
    public var isConfined = false
    /// The ids of the workspace's user namespace; nil: it has none.
    public var workspaceIDs: WorkspaceIDs?
    /// Arguments of the program that ring2 starts, from the same executable.
    public var supervisor: [String]
    /// How long ring2 waits for the supervisor after a request to stop, before it kills everything.
    public var stopGrace: Duration
    /// How long processes that outlive the supervisor have between SIGTERM and SIGKILL.
    public var strayGrace: Duration = .milliseconds(300)

    /// A plan without a link.
    public init(
        network: NetworkMode, stagingDirectory: String, hostName: String, supervisor: [String], stopGrace: Duration
    ) {
        self.network = network
        self.stagingDirectory = stagingDirectory
        self.hostName = hostName
        self.supervisor = supervisor
        self.stopGrace = stopGrace
    }
}

extension RingPlan {
    /// The plan as fields of a channel message.
    var fields: [String] {
        func optional(_ text: String?) -> String { text.map { "=" + $0 } ?? "" }
        let budgets = ["\(stopGrace.nanoseconds)", "\(strayGrace.nanoseconds)"]
        let ids: [String] =
            workspaceIDs.map { [Self.text($0.users), Self.text($0.groups), $0.stages.map(String.init) ?? ""] }
            ?? ["", "", ""]
        var fields: [String] = [network.rawValue, stagingDirectory, hostName, isolation.rawValue] + budgets
        fields += [optional(resolvConf), optional(hosts), filesystem.text]
        fields += ["\(isConfined)", commands ?? ""] + ids + ["\(masksMachine)"]
        if let link {
            fields += [
                "link", link.name, "\(link.mtu)", "\(link.gso)",
                link.hardwareAddress.map(String.init).joined(separator: ":"),
                link.addresses.map(\.description).joined(separator: " "),
                link.routes.map(\.description).joined(separator: ","), "\(link.queueLength)",
                link.kind.rawValue,
            ]
        } else {
            fields.append("no link")
        }
        return fields + supervisor
    }

    /// Reads what ``fields`` wrote; nil for anything else.
    init?(fields: [String]) {
        guard fields.count >= 16, let network = NetworkMode(rawValue: fields[0]),
            let isolation = Isolation(rawValue: fields[3]), let stop = Int64(fields[4]),
            let stray = Int64(fields[5])
        else { return nil }
        var rest = fields[16...]
        var link: LinkPlan?
        if fields[15] == "link" {
            guard rest.count >= 8 else { return nil }
            let f = Array(rest.prefix(8))
            rest = rest.dropFirst(8)
            let addresses = f[4].split(separator: " ").compactMap { Subnet($0) }
            let routes = f[5].split(separator: ",").compactMap { Route($0) }
            guard let mtu = Int(f[1]), let queueLength = Int(f[6]), let kind = LinkKind(rawValue: f[7]) else {
                return nil
            }
            var plan = LinkPlan(addresses: addresses, routes: routes)
            plan.name = f[0]
            plan.mtu = mtu
            plan.gso = f[2] == "true"
            plan.hardwareAddress = f[3].split(separator: ":").compactMap { UInt8($0) }
            plan.queueLength = queueLength
            plan.kind = kind
            link = plan
        }
        self.init(
            network: network, stagingDirectory: fields[1], hostName: fields[2], supervisor: Array(rest),
            stopGrace: .nanoseconds(stop))
        self.link = link
        self.isolation = isolation
        guard let filesystem = FilesystemPlan(text: fields[8]) else { return nil }
        self.filesystem = filesystem
        isConfined = fields[9] == "true"
        masksMachine = fields[14] == "true"
        commands = fields[10].isEmpty ? nil : fields[10]
        if !fields[11].isEmpty {
            guard let users = Self.ranges(fields[11]), let groups = Self.ranges(fields[12]) else { return nil }
            workspaceIDs = WorkspaceIDs(users: users, groups: groups, stages: UInt32(fields[13]))
        }
        strayGrace = .nanoseconds(stray)
        resolvConf = fields[6].isEmpty ? nil : String(fields[6].dropFirst())
        hosts = fields[7].isEmpty ? nil : String(fields[7].dropFirst())
    }

    private static func text(_ ranges: [IDRange]) -> String { ranges.map(\.description).joined(separator: "\n") }

    private static func ranges(_ text: String) -> [IDRange]? {
        var ranges: [IDRange] = []
        for line in text.split(separator: "\n") {
            let numbers = line.split(separator: " ").compactMap { UInt32($0) }
            guard numbers.count == 3 else { return nil }
            ranges.append(IDRange(inside: numbers[0], outside: numbers[1], count: numbers[2]))
        }
        return ranges
    }
}
