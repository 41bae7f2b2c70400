internal import Kernel
internal import SystemPackage

/// Datagrams that follow each other on one flow, of one size but for the last, travel as one: a call for many of them
/// (UDP_SEGMENT) outwards, a superpacket (USO) inwards. Each stays a datagram of its own.
struct DatagramRun {
    /// Bytes and datagrams of a superpacket at most (UDP_MAX_SEGMENTS).
    static let byteLimit = 60_000, countLimit = 60

    let index: Int
    let target: Endpoint
    /// The size of all but the last.
    let segment: Int
    private(set) var length: Int
    private(set) var count = 1
    private var isClosed = false

    init(index: Int, target: Endpoint, size: Int) {
        self.index = index
        self.target = target
        segment = size
        length = size
        isClosed = size == 0
    }

    /// Whether another datagram of this size goes on with it; then it counts as part.
    mutating func takes(_ size: Int, index: Int, target: Endpoint) -> Bool {
        guard !isClosed, index == self.index, target == self.target, size > 0, size <= segment,
            count < Self.countLimit, length + size <= Self.byteLimit
        else { return false }
        isClosed = size < segment
        length += size
        count += 1
        return true
    }
}

extension Forwarder {
    // MARK: outwards

    /// Keeps a datagram that lies in the incoming block until it is known whether more like it follow, at the latest until
    /// the end of this batch of frames.
    mutating func stage(_ index: Int, to target: Endpoint, at offset: Int, count: Int) {
        let start = stagedRun?.length ?? 0
        if stagedRun?.takes(count, index: index, target: target) == true {
            return staging.copy(from: incoming, at: offset, count: count, to: start)
        }
        sendRun()
        stagedRun = DatagramRun(index: index, target: target, size: count)
        staging.copy(from: incoming, at: offset, count: count, to: 0)
    }

    /// Sends what is staged.
    mutating func sendRun() {
        guard let run = stagedRun else { return }
        stagedRun = nil
        let segment = run.count > 1 ? run.segment : 0
        guard case .failed(let errno) = send(run, at: 0, count: run.length, segment: segment) else { return }
        // An error that waited is of a datagram before; the outside may not segment, or a part be too large for the path.
        let pathSize = handleErrors(run.index, isSending: true)
        guard table[run.index].kind == .udp else { return }
        if run.count == 1, errno == .messageTooLong {
            return report(.tooBig, rest: pathSize ?? 0, run, at: 0, count: run.length)
        }
        var at = 0
        while at < run.length {
            let part = min(max(run.segment, 1), run.length - at)
            if case .failed(let errno) = send(run, at: at, count: part, segment: 0) {
                let pathSize = handleErrors(run.index, isSending: true)
                guard table[run.index].kind == .udp else { return }
                if let reason = Unreachable(errno) {
                    report(reason, rest: reason == .tooBig ? pathSize ?? 0 : 0, run, at: at, count: part)
                }
            }
            at += part
        }
    }

    private func send(_ run: DatagramRun, at offset: Int, count: Int, segment: Int) -> IOOutcome {
        staging.sendDatagram(
            table[run.index].socket, v4: run.target.address.isV4, at: offset, count: count,
            InternetSocket.Datagram(peer: run.target, segment: segment))
    }

    /// Tells the workspace why a datagram that is staged did not go out.
    private mutating func report(_ reason: Unreachable, rest: UInt32, _ run: DatagramRun, at offset: Int, count: Int) {
        let guest = table[run.index].guest
        var original = [guest.port, run.target.port, UInt16(clamping: count + UDPHeader.length), 0].flatMap {
            [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)]
        }
        let pointer = unsafe staging.bytes
        unsafe original += pointer.bytes.array(offset..<offset + min(count, 512))
        sendError(
            reason.numbers(v4: guest.address.isV4), rest: rest, from: nil, guest: guest.address,
            remote: run.target.address, proto: TransportProtocol.udp, original: original)
    }

    // MARK: inwards

    /// Takes what has come to a flow's socket: datagrams that may travel together lie behind each other where they were
    /// received.
    mutating func receiveDatagrams(_ index: Int) {
        let start = transportOffset(v4: table[index].guest.address.isV4) + UDPHeader.length
        var run: DatagramRun?
        for _ in 0..<Self.batch {
            var datagram = InternetSocket.Datagram(peer: table[index].guest)
            let at = start + (run?.length ?? 0)
            guard
                case .bytes(let count) = outgoing.receiveDatagram(
                    table[index].socket, at: at, count: 65_535, &datagram)
            else { break }
            table.counters.datagramsIn += 1
            table[index].packetsDown += 1
            table[index].bytesDown += UInt64(count)
            table[index].activeAt = now.nanoseconds
            let isWhole = datagram.segment == 0 || count <= datagram.segment
            if isWhole, run?.takes(count, index: index, target: datagram.peer) == true { continue }
            if let run {
                deliver(run)
                guard table[index].kind == .udp else { return }
                outgoing.move(from: at, count: count, to: start)
            }
            run = nil
            if isWhole, configuration.datagramOffload {
                run = DatagramRun(index: index, target: datagram.peer, size: count)
            } else {
                deliverDatagrams(index, from: datagram, count: count)
            }
        }
        if let run { deliver(run) }
    }

    private mutating func deliver(_ run: DatagramRun) {
        let datagram = InternetSocket.Datagram(peer: run.target, segment: run.count > 1 ? run.segment : 0)
        deliverDatagrams(run.index, from: datagram, count: run.length)
    }
}

extension Unreachable {
    /// What a failed send means; nil where there is nothing to tell.
    init?(_ errno: Errno) {
        switch errno {
        case .networkUnreachable: self = .network
        case .noRouteToHost, .hostIsDown: self = .host
        case .permissionDenied, .notPermitted: self = .prohibited
        case .messageTooLong: self = .tooBig
        default: return nil
        }
    }
}
