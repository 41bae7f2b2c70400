internal import Config
internal import Kernel
internal import Slirp
internal import SystemPackage

/// # Theory of operation
///
/// The ports outside that always lead inside (`network.forwards`). Their sockets are ring0's, so that they stay while a
/// forwarder that has died is followed by another: no client is refused meanwhile.
///
/// A port that cannot be opened (its address or interface is absent, another process has it) is tried again each second,
/// and the forwarder's table shows the reason. KERNEL: a socket bound to an interface keeps the interface's number: one
/// that is deleted and made again has another, and the old socket hears nothing. So the numbers are compared each second.
///
/// The configuration is written by the workspace. What it opens outside after the start is bounded: ports below 1024 and
/// loopback addresses only where the configuration at the start named them.
struct FixedForwards {
    /// Where clients come to.
    private struct Place: Hashable {
        let address: String?, interface: String?
        let port: UInt16
        let isUDP: Bool

        /// The container's own servers are there, or those of its administrator.
        var isGuarded: Bool {
            if port < 1024 || interface == "lo" { return true }
            guard let address = address.flatMap({ IPAddress($0) }) else { return false }
            return address == .loopback6 || (address.isV4 && address.v4 >> 24 == 127)
        }

        var endpoint: Endpoint { Endpoint(address.flatMap { IPAddress($0) } ?? .any6, port) }
    }
    private struct Entry: Hashable {
        let place: Place
        let inside: UInt16
    }
    private enum State {
        /// With the number of the interface that the socket is bound to.
        case open(Descriptor, interface: UInt32?)
        case failed(KernelError)
        /// The configuration at the start did not name it.
        case forbidden
    }
    private var entries: [Entry: (id: UInt32, state: State)] = [:]
    private var atStart: Set<Place>?
    private var nextID: UInt32 = 1
    /// When what failed is tried again; nil while there is nothing to try or to compare.
    private(set) var nextLook: MonotonicInstant?
    private static let lookInterval = Duration.seconds(1)
    /// More are a mistake, and would cost everything else its descriptors.
    private static let limit = 4096

    /// Opens and closes sockets, so that these forwards are there, and tells the forwarder. The texts say what could not be.
    /// The first call is the configuration at the start.
    mutating func set(_ specs: [ForwardSpec], _ channel: Channel?, at now: MonotonicInstant) -> [String] {
        var notes: [String] = []
        var wanted: Set<Entry> = []
        for spec in specs {
            for (outside, inside) in spec.pairs where wanted.count < Self.limit {
                let place = Place(
                    address: spec.address, interface: spec.interface, port: outside, isUDP: spec.transport == .udp)
                wanted.insert(Entry(place: place, inside: inside))
            }
        }
        if wanted.count == Self.limit {
            notes.append("network.forwards: only the first \(Self.limit) ports are forwarded")
        }
        let named = atStart ?? Set(wanted.map(\.place))
        atStart = named
        for (entry, (id, _)) in entries where !wanted.contains(entry) {
            entries[entry] = nil
            try? channel?.send(SlirpCommand.removeForward(id: id).message)
        }
        let missing = wanted.filter { entries[$0] == nil }.sorted {
            ($0.place.port, $0.inside) < ($1.place.port, $1.inside)
        }
        for entry in missing {
            let id = nextID
            nextID += 1
            if entry.place.isGuarded, !named.contains(entry.place) {
                entries[entry] = (id, .forbidden)
                notes.append(
                    "network.forwards: port \(entry.place.port) is not forwarded: a reload opens ports below 1024 and "
                        + "loopback addresses only if the configuration at the start named them. "
                        + "hint: restart the workspace")
            } else {
                let state = open(entry)
                entries[entry] = (id, state)
                if case .failed(let error) = state { notes.append(Self.note(entry, error)) }
            }
            try? tell(entry, channel)
        }
        schedule(at: now)
        return notes
    }

    /// Opens what can be opened now, and opens again what an interface that was made again has lost. The texts say what
    /// changed.
    mutating func look(_ channel: Channel?, at now: MonotonicInstant) -> [String] {
        var notes: [String] = []
        for (entry, (id, before)) in entries {
            switch before {
            case .forbidden: continue
            case .open(_, let number):
                guard let name = entry.place.interface, RouteNetlink.index(of: name) != number else { continue }
                try? channel?.send(SlirpCommand.removeForward(id: id).message)
            case .failed: break
            }
            let state = open(entry)
            entries[entry] = (id, state)
            switch (before, state) {
            case (.failed(let old), .failed(let new)) where old.errno == new.errno: continue
            case (.failed, .open): notes.append("network.forwards: port \(entry.place.port) is forwarded now")
            case (_, .failed(let error)): notes.append(Self.note(entry, error))
            default: break
            }
            try? tell(entry, channel)
        }
        schedule(at: now)
        return notes
    }

    private mutating func schedule(at now: MonotonicInstant) {
        let mayChange = entries.values.contains { value in
            switch value.state {
            case .open(_, let number): number != nil
            case .failed: true
            case .forbidden: false
            }
        }
        nextLook = mayChange ? now + Self.lookInterval : nil
    }

    /// Tells a new forwarder of all of them.
    func replay(to channel: Channel) throws(KernelError) {
        for entry in entries.keys { try tell(entry, channel) }
    }

    private func tell(_ entry: Entry, _ channel: Channel?) throws(KernelError) {
        guard let channel, let (id, state) = entries[entry] else { return }
        let guest = Endpoint(.any6, entry.inside)
        let reason: Errno
        switch state {
        case .open(let socket, _):
            let command = SlirpCommand.addForward(
                id: id, isUDP: entry.place.isUDP, guest: guest, origin: .configured, socket: socket)
            return try channel.send(command.message)
        case .failed(let error): reason = error.errno
        case .forbidden: reason = .notPermitted
        }
        let failure = FailedForward(
            id: id, isUDP: entry.place.isUDP, guest: guest, outside: entry.place.endpoint,
            interface: entry.place.interface ?? "", errno: reason)
        try channel.send(SlirpCommand.failedForward(failure).message)
    }

    private func open(_ entry: Entry) -> State {
        let place = entry.place
        do throws(KernelError) {
            // Before the socket: an interface that is made again meanwhile is seen at the next look.
            let number = place.interface.flatMap { RouteNetlink.index(of: $0) }
            return .open(try Self.bind(place), interface: place.interface == nil ? nil : number ?? 0)
        } catch {
            return .failed(error)
        }
    }

    private static func note(_ entry: Entry, _ error: KernelError) -> String {
        "network.forwards: port \(entry.place.port) is not forwarded: \(error); it is tried again"
    }

    private static func bind(_ place: Place) throws(KernelError) -> Descriptor {
        func bind(_ address: IPAddress) throws(KernelError) -> Descriptor {
            try InternetSocket.bind(
                place.isUDP ? .udp : .tcp, Endpoint(address, place.port), interface: place.interface)
        }
        if let text = place.address, let address = IPAddress(text) { return try bind(address) }
        do { return try bind(.any6) } catch {
            // Without IPv6 there is IPv4 still.
            if error.errno != .addressFamilyNotSupported, error.errno != .addressNotAvailable { throw error }
            return try bind(.any4)
        }
    }
}
