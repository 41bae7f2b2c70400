internal import Kernel

/// Queries to the name server's address, on their way to the outside's servers, one after the other.
extension Forwarder {
    /// Passes a query to the current name server, and keeps it until it is answered.
    mutating func askNameServer(
        _ header: UDPHeader, guest: Endpoint, remote: Endpoint, _ ip: IPHeader, _ place: TransportPlace
    ) {
        let offset = place.offset + UDPHeader.length
        let count = header.datagramLength - UDPHeader.length
        if egress.judgesNames, !admitsQuery(at: offset, count: count, place, guest: guest, remote: remote) { return }
        // A client that asks again has waited long enough for this server.
        if let index = table.find(.udp, guest: guest, remote: remote), table[index].unanswered > 0 {
            nameServers.passOver(table[index].target.address)
        }
        guard let server = nameServers.current, let index = nameFlow(guest, remote, server) else {
            return answer(.port, ip, place)
        }
        table[index].unanswered = table[index].unanswered == .max ? .max : table[index].unanswered + 1
        if count <= NameServers.queryLimit {
            let pointer = unsafe incoming.bytes
            nameServers.queries[index] = unsafe pointer.bytes.array(offset..<offset + count)
        }
        sendDatagram(index, to: table[index].target, header, ip, place)
        wheel.schedule(index, at: (now + NameServers.patience).nanoseconds, in: table)
    }

    /// The flow of a resolver's port, on a socket of the server's family: the workspace may ask over IPv6 what an IPv4
    /// server answers.
    private mutating func nameFlow(_ guest: Endpoint, _ remote: Endpoint, _ server: IPAddress) -> Int? {
        if let index = table.find(.udp, guest: guest, remote: remote),
            table[index].target.address.isV4 != server.isV4, table[index].target.port != 0
        {
            closeDatagram(index)
        }
        guard let index = datagramFlow(.udp, guest: guest, remote: remote, v4: server.isV4) else { return nil }
        table[index].target = Endpoint(server, 53)
        return index
    }

    /// Asks the next server what the last one did not answer; nothing when there is none left to ask.
    mutating func askAgain(_ index: Int) {
        guard let query = nameServers.queries[index] else { return }
        nameServers.passOver(table[index].target.address)
        guard let server = nameServers.current, server != table[index].target.address, table[index].unanswered < 8,
            let next = nameFlow(table[index].guest, table[index].remote, server)
        else { return }
        nameServers.queries[next] = query
        table[next].unanswered = min(table[next].unanswered + 1, 8)
        do {
            let pointer = unsafe outgoing.bytes
            var out = unsafe pointer.mutableBytes
            out.put(query, 0)
        }
        _ = outgoing.sendDatagram(
            table[next].socket, v4: server.isV4, at: 0, count: query.count,
            InternetSocket.Datagram(peer: table[next].target))
        wheel.schedule(next, at: (now + NameServers.patience).nanoseconds, in: table)
    }
}
