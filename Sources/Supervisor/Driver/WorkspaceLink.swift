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

    /// What is not as it was made, in words; nothing: all is well.
    func problems(_ resolver: ResolverCopy?) -> [String] {
        guard let state = RouteNetlink.state(of: name) else {
            return ["\(name) is gone: the workspace has to be started anew"]
        }
        var problems: [String] = []
        if !state.isUp { problems.append("\(name) is down") }
        if state.mtu != mtu { problems.append("\(name) has an MTU of \(state.mtu) instead of \(mtu)") }
        for subnet in addresses where !InternetSocket.interface(name, has: subnet.address) {
            problems.append("\(name) has lost its address \(subnet.address)")
        }
        for route in routes where !Self.has(route, interface: name) {
            let isDefault = route.destination.length == 0
            let via = route.gateway.map { " via \($0)" } ?? ""
            problems.append(
                isDefault ? "there is no default route\(via)" : "there is no route to \(route.destination)\(via)")
        }
        return problems + (resolver?.problems ?? [])
    }

    /// proc_pid_net(5): addresses in hexadecimal, those of IPv4 in the machine's order.
    private static func has(_ route: Route, interface name: String) -> Bool {
        let network = route.destination.network
        let gateway = route.gateway ?? (network.isV4 ? .any4 : .any6)
        func lines(_ path: String) -> [[Substring]] {
            Files.text(path)?.split(separator: "\n").map { $0.split { $0 == " " || $0 == "\t" } } ?? []
        }
        let length = route.destination.length
        if network.isV4 {
            let mask = length == 0 ? 0 : UInt32.max << UInt32(32 - length)
            return lines("/proc/net/route").contains { words in
                words.count > 7 && words[0] == name && UInt32(words[1], radix: 16) == network.v4.byteSwapped
                    && UInt32(words[7], radix: 16) == mask.byteSwapped
                    && UInt32(words[2], radix: 16) == gateway.v4.byteSwapped
            }
        }
        func isAddress(_ word: Substring, _ address: IPAddress) -> Bool {
            word.count == 32 && UInt64(word.prefix(16), radix: 16) == address.high
                && UInt64(word.suffix(16), radix: 16) == address.low
        }
        return lines("/proc/net/ipv6_route").contains { words in
            words.count > 9 && words[9] == name && UInt64(words[1], radix: 16) == UInt64(length)
                && isAddress(words[0], network) && isAddress(words[4], gateway)
        }
    }

    /// Puts back what is ours: link, addresses and routes; what else there is stays.
    func reset() throws(KernelError) {
        let netlink = try RouteNetlink()
        try netlink.bringUp("lo")
        try netlink.bringUp(name, mtu: mtu, queueLength: queueLength)
        guard let index = RouteNetlink.index(of: name) else {
            throw KernelError(call: "find interface", subject: name, errno: Errno(rawValue: 19))
        }
        for address in addresses {
            try netlink.addAddress(address, interface: index)
            try netlink.addLinkRoute(address, interface: index)
        }
        for route in routes { try netlink.addRoute(route, interface: index) }
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
                connection.send(ControlResponse(error: "\(error)"))
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
