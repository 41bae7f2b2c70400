internal import Kernel
internal import SystemPackage

/// Ping: answered for our own addresses, passed on through a ping socket for others.
extension Forwarder {
    /// Echo requests: answered for our own addresses, passed on through a ping socket for others.
    mutating func handleEcho(_ ip: IPHeader, _ place: TransportPlace) {
        let v4 = ip.source.isV4
        let header: ICMPHeader
        do throws(PacketError) {
            let pointer = unsafe incoming.bytes
            header = try unsafe ICMPHeader(
                parsing: pointer.bytes.extracting(place.offset..<place.offset + place.count))
        } catch { return drop(\.malformed) }
        guard header.type == ICMPHeader.echoRequest(v4: v4), !policy.isGroup(ip.destination) else { return }
        if policy.layout.isOurs(ip.destination) {
            var reply: [UInt8]
            do {
                let pointer = unsafe incoming.bytes
                reply = unsafe pointer.bytes.array(place.offset..<place.offset + place.count)
            }
            reply[0] = ICMPHeader.echoReply(v4: v4)
            return sendBytes(
                reply, source: ip.destination, destination: ip.source,
                proto: v4 ? TransportProtocol.icmp : TransportProtocol.icmpv6, checksumOffset: 2)
        }
        if ip.timeToLive <= 1, policy.layout.isHop(to: ip.destination) { return answer(.timeExceeded, ip, place) }
        let guest = Endpoint(ip.source, UInt16(header.rest >> 16))
        let (route, rule) = admit(.icmp, guest: guest, remote: Endpoint(ip.destination, 0))
        switch route {
        case .outside(let target):
            let any = Endpoint(v4 ? .any4 : .any6, 0)
            guard let index = datagramFlow(.ping, guest: guest, remote: any, v4: v4, rule: rule) else {
                if !notedPing {
                    notedPing = true
                    note(
                        "the workspace cannot ping the outside: allow it with the sysctl "
                            + "net.ipv4.ping_group_range=\"0 65535\" in the container")
                }
                return answer(.prohibited, ip, place)
            }
            passOn(ip, index)
            egress.expect(target.address, at: guest, now)
            table[index].packetsUp += 1
            table[index].activeAt = now.nanoseconds
            let outcome = sendOrReport(
                index, v4: v4, at: place.offset, count: place.count, InternetSocket.Datagram(peer: target), ip, place)
            switch outcome {
            case .failed(.networkUnreachable): answer(.network, ip, place)
            case .failed(.noRouteToHost): answer(.host, ip, place)
            default: break
            }
        case .unreachable: answer(.host, ip, place)
        case .noNetwork: answer(.network, ip, place)
        case .denied, .loopback, .nameServer: answer(.prohibited, ip, place)
        }
    }

    mutating func deliverEcho(_ index: Int, from datagram: InternetSocket.Datagram, count: Int) {
        let guest = table[index].guest
        let v4 = guest.address.isV4
        guard count >= ICMPHeader.length, admitsArrival(.icmp, from: datagram.peer, to: guest) else { return }
        let start = transportOffset(v4: v4)
        do {
            let pointer = unsafe outgoing.bytes
            var out = unsafe pointer.mutableBytes
            out.put16(0, start + 2)
            out.put16(guest.port, start + 4)
        }
        let proto = v4 ? TransportProtocol.icmp : TransportProtocol.icmpv6
        fillChecksum(
            source: datagram.peer.address, destination: guest.address, proto: proto, at: start, count: count,
            checksumOffset: 2)
        sendPacket(
            source: datagram.peer.address, destination: guest.address, proto: proto, count: count,
            timeToLive: datagram.timeToLive > 1 ? datagram.timeToLive - 1 : 64)
    }
}
