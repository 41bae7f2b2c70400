internal import Kernel

/// Puts fragments together (RFC 791, RFC 8200 4.5). Bounded in packets and time; overlapping fragments discard the
/// packet (RFC 5722), and the oldest packet gives way to a new one.
struct Reassembly {
    private struct Key: Hashable {
        let source: IPAddress, destination: IPAddress
        let identification: UInt32
        let proto: UInt8
    }
    private struct Partial {
        var bytes: [UInt8]
        /// Disjoint ranges received, in order.
        var ranges: [Range<Int>]
        var total: Int?
        var header: IPHeader
        var deadline: MonotonicInstant
        var poisoned = false
    }
    private var packets: [Key: Partial] = [:]
    let limit: Int
    static let timeout = Duration.seconds(30)

    init(limit: Int = 64) { self.limit = limit }

    /// Takes a fragment's payload; returns the whole packet's header and payload once it is complete.
    mutating func add(_ header: IPHeader, _ fragment: IPHeader.Fragment, _ payload: [UInt8], at now: MonotonicInstant)
        -> (IPHeader, [UInt8])?
    {
        let end = fragment.offset + payload.count
        guard !payload.isEmpty, end <= 65515, !fragment.more || payload.count % 8 == 0 else { return nil }
        let key = Key(
            source: header.source, destination: header.destination, identification: fragment.identification,
            proto: header.source.isV4 ? header.proto : 0)
        var packet = packets[key] ?? makeRoom(for: header, at: now)
        if packet.deadline <= now { packet = makeRoom(for: header, at: now) }
        let range = fragment.offset..<end
        if packet.ranges.contains(range) { return nil }  // an exact duplicate is harmless
        if packet.poisoned || packet.ranges.contains(where: { $0.overlaps(range) })
            || packet.total.map({ end > $0 || (!fragment.more && end != $0) }) == true
        {
            packet.poisoned = true
            packet.bytes = []
            packets[key] = packet
            return nil
        }
        if fragment.offset == 0 { packet.header = header }
        if !fragment.more { packet.total = end }
        if packet.bytes.count < end { packet.bytes += [UInt8](repeating: 0, count: end - packet.bytes.count) }
        packet.bytes.replaceSubrange(range, with: payload)
        packet.ranges.insert(
            range, at: packet.ranges.firstIndex { $0.lowerBound > range.lowerBound } ?? packet.ranges.count)
        if let total = packet.total, packet.bytes.count == total,
            packet.ranges.reduce(0, { $0 + $1.count }) == total
        {
            packets[key] = nil
            var whole = packet.header
            whole.fragment = nil
            whole.payloadLength = total
            return (whole, packet.bytes)
        }
        packets[key] = packet
        return nil
    }

    private mutating func makeRoom(for header: IPHeader, at now: MonotonicInstant) -> Partial {
        if packets.count >= limit {
            packets = packets.filter { $0.value.deadline > now }
            if packets.count >= limit, let oldest = packets.min(by: { $0.value.deadline < $1.value.deadline }) {
                packets[oldest.key] = nil
            }
        }
        return Partial(bytes: [], ranges: [], total: nil, header: header, deadline: now + Self.timeout)
    }
}
