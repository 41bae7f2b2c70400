internal import Config
internal import Kernel
internal import Slirp
internal import SystemPackage

/// The ports outside that always lead inside (`network.forwards`). Their sockets are ring0's, so that they stay while a
/// forwarder that has died is followed by another: nobody is refused meanwhile.
struct FixedForwards {
    private struct Entry: Hashable {
        let address: String?, interface: String?
        let outside: UInt16, inside: UInt16
        let isUDP: Bool
    }
    private var open: [Entry: (id: UInt32, socket: Descriptor)] = [:]
    private var nextID: UInt32 = 1
    /// More are a mistake, and would cost everything else its descriptors.
    private static let limit = 4096

    /// These are wanted now: sockets are opened and closed, and the forwarder is told. The texts say what could not be.
    mutating func set(_ specs: [ForwardSpec], _ channel: Channel?) -> [String] {
        var notes: [String] = []
        var wanted: Set<Entry> = []
        for spec in specs {
            for (outside, inside) in spec.pairs where wanted.count < Self.limit {
                wanted.insert(
                    Entry(
                        address: spec.address, interface: spec.interface, outside: outside, inside: inside,
                        isUDP: spec.transport == .udp))
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
                let socket = try Self.bind(entry)
                open[entry] = (nextID, socket)
                nextID += 1
                try tell(entry, channel)
            } catch {
                notes.append("network.forwards: port \(entry.outside) is not forwarded: \(error)")
            }
        }
        return notes
    }

    /// Tells a new forwarder of all of them.
    func replay(to channel: Channel) throws(KernelError) {
        for entry in open.keys { try tell(entry, channel) }
    }

    private func tell(_ entry: Entry, _ channel: Channel?) throws(KernelError) {
        guard let channel, let (id, socket) = open[entry] else { return }
        let command = SlirpCommand.addForward(
            id: id, isUDP: entry.isUDP, guest: Endpoint(.any6, entry.inside), origin: .configured, socket: socket)
        try channel.send(command.message)
    }

    private static func bind(_ entry: Entry) throws(KernelError) -> Descriptor {
        func bind(_ address: IPAddress) throws(KernelError) -> Descriptor {
            try InternetSocket.bind(
                entry.isUDP ? .udp : .tcp, Endpoint(address, entry.outside), interface: entry.interface)
        }
        if let text = entry.address, let address = IPAddress(text) { return try bind(address) }
        do { return try bind(.any6) } catch {
            // Without IPv6 there is IPv4 still.
            if error.errno != .addressFamilyNotSupported, error.errno != .addressNotAvailable { throw error }
            return try bind(.any4)
        }
    }
}
