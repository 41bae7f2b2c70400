internal import Config
internal import Control
internal import Kernel

/// Which ports are served, by whom, and which are declared: looked up when somebody asks, so that nobody who does not ask
/// pays for it.
extension Supervisor {
    func ports() throws(KernelError) -> [PortStatus] {
        let sockets = try SocketDiagnosis.open().sockets().filter { $0.endpoint.port != 0 }
        let owners = Self.owners(of: Set(sockets.map(\.inode)))
        let members = UnitMembers(self)
        var found: [String: PortStatus] = [:]
        for socket in sockets {
            let transport = socket.isUDP ? "udp" : "tcp"
            let key = "\(socket.endpoint.port)/\(transport)"
            var port = found[key] ?? PortStatus(port: socket.endpoint.port, transport: transport, isListening: true)
            let address = socket.endpoint.address.description
            if !port.addresses.contains(address) { port.addresses.append(address) }
            // The parent of those who share it: the one that was there first.
            if let pid = owners[socket.inode], port.pid.map({ pid < $0 }) ?? true {
                port.pid = pid
                port.process = members.processes[pid]?.name
                port.unit = members.unit(of: pid).map { units[$0].spec.name }
            }
            found[key] = port
        }
        declare(&found)
        let declared = DeclaredPorts(reading.configuration)
        for (key, port) in found where port.transport == "tcp" { found[key]?.protocol = declared.scheme(of: port.port) }
        return found.values.sorted { ($0.port, $0.transport) < ($1.port, $1.transport) }
    }

    /// What the configuration says about ports; of ranges only the ports that are served.
    private func declare(_ found: inout [String: PortStatus]) {
        let declared = reading.configuration.ports
        for spec in declared.filter({ $0.ports.count == 1 }) + declared.filter({ $0.ports.count > 1 }) {
            let isSingle = spec.ports.count == 1
            let keys =
                isSingle
                ? ["\(spec.ports.lowerBound)/tcp"]
                : found.filter { spec.ports.contains($0.value.port) && $0.value.transport == "tcp" }.map(\.key)
            for key in keys {
                var port = found[key] ?? PortStatus(port: spec.ports.lowerBound, transport: "tcp", isListening: false)
                if port.isDeclared { continue }
                port.isDeclared = true
                port.name = spec.name
                port.description = spec.description
                found[key] = spec.onOpen == "ignore-completely" ? nil : port
            }
        }
    }

    /// The lowest process id that holds each of the sockets.
    private static func owners(of inodes: Set<UInt32>) -> [UInt32: Int32] {
        var owners: [UInt32: Int32] = [:]
        for process in ProcessEntry.all() {
            for inode in process.sockets where inodes.contains(inode) {
                owners[inode] = min(owners[inode] ?? process.pid, process.pid)
            }
        }
        return owners
    }
}
