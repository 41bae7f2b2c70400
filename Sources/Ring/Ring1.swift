internal import Kernel
internal import SystemPackage

/// Descriptors that every stage inherits, besides standard input, output and error.
public enum StageDescriptor {
    /// The channel to the stage's parent.
    public static let channel: Int32 = 3
    /// The configuration, for the supervisor, which keeps its state beside it.
    public static let configuration: Int32 = 4
    /// The supervisor's channel to ring0.
    public static let report: Int32 = 5
    /// The workspace's user namespace and its mount namespace, for ring2 the first of them, where it has them.
    public static let users: Int32 = 6, mounts: Int32 = 7
}

/// Signals that travel from ring0 inwards.
let relayedSignals: [Signal] = [.terminate, .interrupt, .hangup, .quit, .user1, .user2]

/// Root of the new user namespace: builds mounts and link, starts ring2, ends with its status.
public enum Ring1 {
    /// The whole life of the stage. Returns the exit code.
    public static func main() -> UInt8 {
        CurrentProcess.setName("ring1")
        let channel = Channel(Descriptor(OwnedDescriptor(owning: StageDescriptor.channel)))
        do {
            // Writing the id maps and becoming root cleared what the spawn had set (prctl(2)).
            try CurrentProcess.setDeathSignal(.kill)
            let signals = try SignalReader(relayedSignals + [.child])
            guard case .plan(let plan)? = try channel.next(within: .seconds(5)) else { return 71 }
            if !plan.isolation.hasOwnProcesses { try Self.outlivesParent() }
            let ring2 = try build(plan, channel)
            CurrentProcess.closeDescriptors(
                from: StageDescriptor.configuration,
                except: [channel.descriptor.number, signals.number, ring2.channel.descriptor.number])
            let status = try live(ring2, channel, signals, plan.isolation)
            if !plan.isolation.hasOwnProcesses { Descendants.end() }
            return status
        } catch {
            try? channel.send(.failed(StageFailure("ring1", error)))
            return 71
        }
    }

    /// Where no PID namespace ends the workspace's processes, this stage does when its parent's channel closes, and so has to
    /// outlive its parent for that moment.
    static func outlivesParent() throws(KernelError) {
        try CurrentProcess.setDeathSignal(nil)
        try CurrentProcess.becomeSubreaper()
    }

    private struct Child {
        let pid: Int32
        let channel: Channel
    }

    private static func build(_ plan: RingPlan, _ channel: Channel) throws(KernelError) -> Child {
        let isOwn = plan.isolation != .superviseOnly
        let namespaces = try plan.workspaceIDs.map { (ids) throws(KernelError) in
            try WorkspaceNamespaces(ids, hasNetwork: plan.network != .host, hasCgroups: !plan.masksMachine)
        }
        // Of the stages, not of the workspace, whose root could mount cgroups in one of its own.
        if plan.masksMachine { try? unshare(.cgroup) }
        if isOwn {
            try namespaces?.enter()
            if plan.network != .host { try bringUpNetwork(plan, channel) }
            try RootFilesystem(root: plan.stagingDirectory, plan: plan, note: { try? channel.send(.note($0)) })
                .assemble()
            if let link = plan.link { awaitAddresses(link) }
        }
        let (ours, theirs) = try Channel.pair()
        // The PID namespace is for ring2, our only child; clone flags are what seccomp profiles forbid, unshare they allow.
        if plan.isolation.hasOwnProcesses { try unshare(.pid) }
        var spawnPlan = SpawnPlan(
            path: "/proc/self/exe", arguments: ["workspacekit", "ring2"], environment: currentEnvironment(),
            descriptors: [0, 1, 2, theirs.descriptor.number, StageDescriptor.configuration, StageDescriptor.report])
        if let namespaces { spawnPlan.descriptors.append(namespaces.users.number) }
        if isOwn { spawnPlan.namespaces = .mount }
        spawnPlan.deathSignal = plan.isolation.hasOwnProcesses ? .kill : nil
        let pid = try spawn(spawnPlan)
        withExtendedLifetime((theirs, namespaces)) {}
        try ours.send(.plan(plan))
        return Child(pid: pid, channel: ours)
    }

    private static func bringUpNetwork(_ plan: RingPlan, _ channel: Channel) throws(KernelError) {
        let netlink = try RouteNetlink()
        try netlink.bringUp("lo")
        guard let link = plan.link else { return }
        let handles = try openLink(link, channel)
        // We assign the IPv6 address ourselves: no second one from the router advertisement.
        try? Files.writeKernelFile("/proc/sys/net/ipv6/conf/\(link.name)/accept_ra", "0")
        try netlink.bringUp(
            link.name, mtu: link.mtu, address: link.hardwareAddress, queueLength: link.queueLength)
        guard let index = RouteNetlink.index(of: link.name) else {
            throw KernelError(call: "find interface", subject: link.name, errno: Errno(rawValue: 19))
        }
        // Congestion happens outside and is the outside socket's business; on this link of memory copies, pacing (bbr)
        // only costs. Reno is in every kernel and open to all.
        try? Files.writeKernelFile("/proc/sys/net/ipv4/tcp_congestion_control", "reno")
        // The port of a connection that has ended serves another one after a second (RFC 6191), as the forwarder's TCP has
        // timestamps. KERNEL: otherwise connect(2) looks at each port in TIME_WAIT, from some 14,000 connections to one
        // endpoint within a minute on at half of all ports, and has none left at 28,000.
        try? Files.writeKernelFile("/proc/sys/net/ipv4/tcp_tw_reuse", "1")
        for address in link.addresses { try netlink.addAddress(address, interface: index) }
        for route in link.routes { try netlink.addRoute(route, interface: index) }
        try channel.send(.link(handles))
    }

    /// Waits until the kernel receives at the addresses, which it does a moment after they were added: the first connections
    /// would lose their answers, and a second each.
    private static func awaitAddresses(_ link: LinkPlan) {
        guard let query = try? RouteQuery.open() else { return }
        for _ in 0..<100 {
            if link.addresses.allSatisfy({ query.receives(at: $0.address) }) { return }
            pause(.milliseconds(2))
        }
    }

    /// A tap device; or, where there is none, a packet socket on the other end of a pair of interfaces.
    private static func openLink(_ link: LinkPlan, _ channel: Channel) throws(KernelError) -> LinkHandles {
        let query = try SocketDiagnosis.open()
        let routes = try RouteQuery.open()
        if link.kind != .packet {
            do {
                let tap = try Tap.open(link.name, gso: link.gso)
                return LinkHandles(
                    tap: tap.descriptor, listeners: query.descriptor, routes: routes.descriptor,
                    checksum: tap.checksumOffload,
                    tso: tap.segmentationOffload, uso: tap.datagramOffload, isPacketLink: false)
            } catch {
                if link.kind == .tap { throw error }
                try? channel.send(.note("\(error): the link is a pair of interfaces and a packet socket instead"))
            }
        }
        let socket = try makePair(link)
        if !link.gso { try PacketLink.turnSegmentationOff(link.name) }
        return LinkHandles(
            tap: socket, listeners: query.descriptor, routes: routes.descriptor, checksum: true, tso: link.gso,
            uso: link.gso && hasDatagramSuperpackets, isPacketLink: true)
    }

    /// The pair's other end lies in a network namespace of nothing else, which lives as long as the socket: nobody inside
    /// sees it, and no stack answers there.
    private static func makePair(_ link: LinkPlan) throws(KernelError) -> Descriptor {
        let own = try Files.open("/proc/self/ns/net", flags: 0)
        try unshare(.network)
        try? Files.writeKernelFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
        let other = "forwarder"
        let netlink = try RouteNetlink()
        try netlink.addPair(other, peer: link.name, in: own)
        try netlink.bringUp(other, mtu: link.mtu)
        let socket = try PacketLink.open(other)
        try enterNamespace(.network, own)
        return socket
    }

    /// As many as one message carries, more of IPv4; without IPv6 fewer.
    private static func makeSockets() -> [Descriptor] {
        [true, true, true, true, true, true, false, false].compactMap { v4 in
            guard case .success(let socket) = InternetSocket.make(.tcp, v4: v4) else { return nil }
            return Descriptor(OwnedDescriptor(owning: socket))
        }
    }

    /// KERNEL: packet sockets know UDP superpackets since Linux 6.2.
    private static var hasDatagramSuperpackets: Bool {
        let release = (Files.text("/proc/sys/kernel/osrelease") ?? "").split { $0 == "." || $0 == "-" }.prefix(2)
        let numbers = release.compactMap { Int($0) }
        return numbers.count == 2 && (numbers[0], numbers[1]) >= (6, 2)
    }

    /// ring0 is gone. The kernel ends what is in a PID namespace of its own. Elsewhere ring2 ends what is below it, and
    /// would also do so if this stage were killed now; only then is it this stage's turn.
    private static func letEnd(_ ring2: Child, _ isolation: Isolation) {
        guard !isolation.hasOwnProcesses else {
            send(.kill, to: ring2.pid)
            return
        }
        ring2.channel.shutDown()
        for _ in 0..<1000 {
            guard case .nothingYet = reap(ring2.pid) else { return }
            pause(.milliseconds(5))
        }
    }

    private static func live(
        _ ring2: Child, _ parent: Channel, _ signals: borrowing SignalReader, _ isolation: Isolation
    ) throws(KernelError) -> UInt8 {
        let poller = try Poller()
        try poller.add(signals.number, .readable, token: 0)
        try poller.add(parent.descriptor.number, .readable, token: 1)
        try poller.add(ring2.channel.descriptor.number, .readable, token: 2)
        CurrentProcess.releaseCode()
        while true {
            for index in 0..<(try poller.wait(nil)) {
                switch poller.event(index).token {
                case 0:
                    while let (signal, _) = signals.next() {
                        if signal != .child { send(signal, to: ring2.pid) }
                    }
                    while case .ended(let pid, let status) = reap() {
                        guard pid == ring2.pid else { continue }
                        if case .signalled = status {
                            try? parent.send(.note("ring2, the workspace's PID 1, was ended by \(status)"))
                        }
                        return status.code
                    }
                case 1:
                    switch parent.next() {
                    case .closed:
                        letEnd(ring2, isolation)
                        return 70
                    case .message(.go): try ring2.channel.send(.go)
                    case .message(.files(let texts)): try? ring2.channel.send(.files(texts))
                    // What waits for ring0 has descriptors enough.
                    case .message(.socketsWanted) where !parent.hasBacklog: try? parent.send(.sockets(makeSockets()))
                    case .message, .nothingYet: break
                    }
                default:
                    switch ring2.channel.next() {
                    case .closed: poller.remove(ring2.channel.descriptor.number)
                    case .message(let message): try? parent.send(message)
                    case .nothingYet: break
                    }
                }
            }
            parent.settle(poller, token: 1)
            ring2.channel.settle(poller, token: 2)
        }
    }
}
