internal import Control
public import Kernel
internal import SystemPackage

/// The interface that leads out of the workspace, as it was made: what `net reset` puts back, and what `net status` compares
/// with.
public struct WorkspaceLink: Hashable, Sendable {
    /// The interface's name.
    public var name: String
    /// Its MTU, and the length of its queue.
    public var mtu: Int, queueLength: Int
    /// Its addresses, and its routes besides those that come with them.
    public var addresses: [Subnet], routes: [Route]
    /// What the container reached in a way of its own when the workspace started.
    public var containerNetworks: [RoutedNetwork]

    /// A link as it was made.
    public init(
        name: String, mtu: Int, queueLength: Int, addresses: [Subnet], routes: [Route],
        containerNetworks: [RoutedNetwork] = []
    ) {
        self.name = name
        self.mtu = mtu
        self.queueLength = queueLength
        self.addresses = addresses
        self.routes = routes
        self.containerNetworks = containerNetworks
    }

    var fields: [String] {
        [
            name, "\(mtu)", "\(queueLength)", addresses.map(\.description).joined(separator: " "),
            routes.map(\.description).joined(separator: ","),
            containerNetworks.map(\.description).joined(separator: ","),
        ]
    }
    static let noFields = [String](repeating: "", count: 6)

    init?(fields f: [String]) {
        guard f.count == 6, !f[0].isEmpty, let mtu = Int(f[1]), let queueLength = Int(f[2]) else { return nil }
        self.init(
            name: f[0], mtu: mtu, queueLength: queueLength,
            addresses: f[3].split(separator: " ").compactMap { Subnet($0) },
            routes: f[4].split(separator: ",").compactMap { Route($0) },
            containerNetworks: f[5].split(separator: ",").compactMap { RoutedNetwork($0) })
    }

    /// What to say when the interface was deleted: its other end is lost with it.
    var loss: String { "\(name) is gone: \(WorkspaceStatus.restartCure)" }

    /// What is not as it was made, in words; nothing: all is well.
    func problems(_ resolver: ResolverCopy?) -> [String] {
        guard let state = RouteNetlink.state(of: name) else {
            return [loss]
        }
        var problems: [String] = []
        if !state.isUp { problems.append("\(name) is down") }
        if state.mtu != mtu { problems.append("\(name) has an MTU of \(state.mtu) instead of \(mtu)") }
        for subnet in addresses where !InternetSocket.interface(name, has: subnet.address) {
            problems.append("\(name) has lost its address \(subnet.address)")
        }
        for route in routes where !has(route) {
            let isDefault = route.destination.length == 0
            let via = route.gateway.map { " via \($0)" } ?? ""
            problems.append(
                isDefault ? "there is no default route\(via)" : "there is no route to \(route.destination)\(via)")
        }
        return problems + loopbackProblems + wayProblems + (resolver?.problems ?? [])
    }

    private var hasIPv6: Bool { addresses.contains { !$0.address.isV4 } }
    private var loopbacks: [Subnet] {
        [Subnet(.loopback4, 8)] + (hasIPv6 ? [Subnet(.loopback6, 128)] : [])
    }

    private var loopbackProblems: [String] {
        guard RouteNetlink.state(of: "lo")?.isUp == true else { return ["lo is down"] }
        return loopbacks.filter { !InternetSocket.interface("lo", has: $0.address) }.map {
            "lo has lost its address \($0)"
        }
    }

    /// Addresses and routes are there and do not count: rules lead elsewhere, the interface is part of a bridge, or the kernel
    /// has not come to them yet.
    private var wayProblems: [String] {
        guard let index = RouteNetlink.index(of: name), let query = try? RouteQuery.open() else { return [] }
        let deaf = addresses.map(\.address).filter {
            InternetSocket.interface(name, has: $0) && !query.receives(at: $0)
        }
        let master = RouteNetlink.master(of: name).map { _ in ["\(name) is part of another interface"] } ?? []
        let gateways = routes.filter { $0.destination.length == 0 && has($0) }.compactMap(\.gateway)
        return deaf.map { "packets to \($0) are not received" } + master
            + gateways.filter { query.interface(towards: $0) != index }.map {
                "packets to \($0) do not leave by \(name)"
            }
    }

    /// proc_pid_net(5): addresses in hexadecimal, those of IPv4 in the machine's order.
    private func has(_ route: Route) -> Bool {
        let network = route.destination.network
        let gateway = route.gateway ?? (network.isV4 ? .any4 : .any6)
        func lines(_ path: String) -> [[Substring]] {
            Files.text(path)?.split(separator: "\n").map { $0.split { $0 == " " || $0 == "\t" } } ?? []
        }
        let length = route.destination.length
        if network.isV4 {
            let mask = length == 0 ? 0 : UInt32.max << UInt32(32 - length)
            // Of several with its metric the first counts.
            let first = lines("/proc/net/route").first { words in
                words.count > 7 && UInt32(words[1], radix: 16) == network.v4.byteSwapped
                    && UInt32(words[7], radix: 16) == mask.byteSwapped && words[6] == "0"
            }
            return first.map { $0[0] == name && UInt32($0[2], radix: 16) == gateway.v4.byteSwapped } ?? false
        }
        func isAddress(_ word: Substring, _ address: IPAddress) -> Bool {
            word.count == 32 && UInt64(word.prefix(16), radix: 16) == address.high
                && UInt64(word.suffix(16), radix: 16) == address.low
        }
        // With its metric (IP6_RT_PRIO_USER) each takes a part of the packets.
        let same = lines("/proc/net/ipv6_route").filter { words in
            words.count > 9 && UInt64(words[1], radix: 16) == UInt64(length) && UInt64(words[5], radix: 16) == 1024
                && isAddress(words[0], network)
        }
        return !same.isEmpty && same.allSatisfy { $0[9] == name && isAddress($0[4], gateway) }
    }

    /// Puts back what is ours: link, addresses and routes, and the rules without which these do not count; what else there is
    /// stays.
    func reset() throws(KernelError) {
        let netlink = try RouteNetlink()
        try netlink.bringUp("lo")
        if hasIPv6 { for place in ["lo", name] { Self.allowIPv6(on: place) } }
        if let index = RouteNetlink.index(of: "lo") {
            for address in loopbacks { try netlink.addAddress(address, interface: index) }
        }
        try netlink.bringUp(name, mtu: mtu, queueLength: queueLength, freed: true)
        guard let index = RouteNetlink.index(of: name) else {
            throw KernelError(call: "find interface", subject: name, errno: Errno(rawValue: 19))
        }
        for address in addresses {
            try netlink.addAddress(address, interface: index)
            try netlink.addLinkRoute(address, interface: index)
        }
        for route in routes where !has(route) { try netlink.addRoute(route, interface: index, replacing: true) }
        // Kernels without policy routing have no rules to lose.
        for v4 in [true, false] { try? netlink.addStandardRules(v4: v4) }
    }

    private static func allowIPv6(on interface: String) {
        try? Files.writeKernelFile("/proc/sys/net/ipv6/conf/\(interface)/disable_ipv6", "0")
    }
}

extension Supervisor {
    /// `net status` and `net reset`.
    func answerForLink(_ request: ControlRequest, _ connection: ServedConnection) {
        guard let link = plan.link else {
            connection.send(ControlResponse(error: "this workspace has no network of its own (run --network sandbox)"))
            return
        }
        if request.verb == .netReset {
            resolver?.restore()
            do { try link.reset() } catch {
                let isLost = RouteNetlink.state(of: link.name) == nil
                connection.send(ControlResponse(error: isLost ? link.loss : "\(error)"))
                return
            }
        }
        var response = ControlResponse()
        response.link = LinkStatus(
            name: link.name, mtu: link.mtu, addresses: link.addresses.map(\.description),
            gateways: link.routes.filter { $0.destination.length == 0 }.compactMap { $0.gateway?.description },
            problems: link.problems(resolver))
        connection.send(response)
    }

    /// `net capture`: a socket that hears what passes the link. Reading and writing is the client's.
    func answerForCapture(_ connection: ServedConnection) {
        guard let link = plan.link else {
            connection.send(ControlResponse(error: "this workspace has no network of its own (run --network sandbox)"))
            return
        }
        do {
            let socket = try PacketCapture.open(link.name)
            var response = ControlResponse()
            response.text = link.name
            connection.send(response, descriptors: [socket])
        } catch { connection.send(ControlResponse(error: "\(error)")) }
    }

    /// `net flows`: the forwarder's table, and who inside owns which connection.
    func answerForFlows(_ connection: ServedConnection) {
        guard let flowTable else {
            connection.send(ControlResponse(error: "this workspace has no forwarder (run --network sandbox)"))
            return
        }
        let members = UnitMembers(self)
        let sockets = (try? SocketDiagnosis.open().traffic()) ?? []
        let byInode = Dictionary(sockets.map { ($0.inode, $0) }, uniquingKeysWith: { a, _ in a })
        var owners: [FlowOwner] = []
        for process in members.processes.values.sorted(by: { $0.pid < $1.pid }) {
            for inode in process.sockets {
                guard let socket = byInode[inode] else { continue }
                owners.append(
                    FlowOwner(
                        local: "\(socket.local)", remote: "\(socket.remote)", pid: process.pid, process: process.name,
                        unit: members.unit(of: process.pid).map { units[$0].spec.name }))
            }
        }
        var response = ControlResponse()
        response.owners = owners
        connection.send(response, descriptors: [flowTable])
    }
}
