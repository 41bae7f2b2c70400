internal import Config
internal import Kernel
internal import Slirp
internal import SystemPackage

/// The ports outside that always lead inside (`network.forwards`). Their sockets are ring0's, so that they stay while a
/// forwarder that has died is followed by another: nobody is refused meanwhile.
struct FixedForwards {
    private struct Entry: Hashable {
        let address: String?
        let outside: UInt16, inside: UInt16
        let isUDP: Bool
    }
    private var open: [Entry: (id: Int, socket: Descriptor)] = [:]
    private var nextID = 1
    /// More are a mistake, and would cost everything else its descriptors.
    private static let limit = 4096

    /// These are wanted now: sockets are opened and closed, and the forwarder is told. The texts say what could not be.
    mutating func set(_ specs: [ForwardSpec], _ layout: NetworkLayout, _ channel: Channel?) -> [String] {
        var notes: [String] = []
        var wanted: Set<Entry> = []
        for spec in specs {
            for (outside, inside) in zip(spec.outside, spec.inside) where wanted.count < Self.limit {
                wanted.insert(
                    Entry(
                        address: spec.address, outside: outside, inside: inside, isUDP: spec.transport == .udp))
            }
        }
        if wanted.count == Self.limit {
            notes.append("network.forwards: only the first \(Self.limit) ports are forwarded")
        }
        for (entry, (id, _)) in open where !wanted.contains(entry) {
            open[entry] = nil
            try? channel?.send(SlirpCommand.removeForward(id: id).message)
        }
        let missing = wanted.filter { open[$0] == nil }.sorted { ($0.outside, $0.inside) < ($1.outside, $1.inside) }
        for entry in missing {
            do throws(KernelError) {
                let socket = try Self.listen(entry)
                open[entry] = (nextID, socket)
                nextID += 1
                try tell(entry, layout, channel)
            } catch {
                notes.append("network.forwards: port \(entry.outside) is not forwarded: \(error)")
            }
        }
        return notes
    }

    /// Tells a new forwarder of all of them.
    func replay(_ layout: NetworkLayout, to channel: Channel) throws(KernelError) {
        for entry in open.keys { try tell(entry, layout, channel) }
    }

    private func tell(_ entry: Entry, _ layout: NetworkLayout, _ channel: Channel?) throws(KernelError) {
        guard let channel, let (id, socket) = open[entry] else { return }
        let isV6 = entry.address?.contains(":") == true && layout.subnet6 != nil
        let guest = Endpoint(isV6 ? layout.guest6 : layout.guest4, entry.inside)
        try channel.send(SlirpCommand.addForward(id: id, isUDP: entry.isUDP, guest: guest, socket: socket).message)
    }

    private static func listen(_ entry: Entry) throws(KernelError) -> Descriptor {
        func listen(_ address: IPAddress) throws(KernelError) -> Descriptor {
            let endpoint = Endpoint(address, entry.outside)
            return try entry.isUDP ? InternetSocket.bindDatagrams(endpoint) : InternetSocket.listen(endpoint)
        }
        if let text = entry.address, let address = IPAddress(text) { return try listen(address) }
        do { return try listen(.any6) } catch {
            if error.errno == .addressInUse || error.errno == .permissionDenied { throw error }
            return try listen(.any4)
        }
    }
}
