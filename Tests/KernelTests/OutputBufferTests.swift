import Testing

@testable import Kernel

@Suite("Output for a reader that may be slow")
struct OutputBufferTests {
    /// Takes so many bytes a call, up to `total`.
    private func reader(_ taking: Int, upTo total: Int, _ read: @escaping ([UInt8]) -> Void) -> (
        [UInt8], Int, Int
    ) -> IOOutcome {
        var left = total
        return { bytes, from, count in
            let taken = min(taking, count, left)
            guard taken > 0 else { return .wouldBlock }
            left -= taken
            read(Array(bytes[from..<from + taken]))
            return .bytes(taken)
        }
    }

    @Test("what is appended leaves once and in order, however little is taken", arguments: [1, 3, 7, 4096])
    func order(taking: Int) {
        var buffer = OutputBuffer(limit: 1 << 20)
        var expected: [UInt8] = []
        var got: [UInt8] = []
        for round in 0..<50 {
            let line = Array("line \(round) of many\n".utf8)
            let isTaken = buffer.append(line[...])
            #expect(isTaken)
            expected += line
            _ = buffer.flush(piece: 64, reader(taking, upTo: 11) { got += $0 })
        }
        let end = buffer.flush(piece: 64, reader(taking, upTo: .max) { got += $0 })
        #expect(end == .empty)
        #expect(got == expected)
        #expect(buffer.isEmpty)
    }

    @Test("a piece that does not fit is left out whole")
    func bound() {
        var buffer = OutputBuffer(limit: 10)
        let first = buffer.append([1, 2, 3][...], [4, 5, 6][...], [7][...])
        #expect(first)
        let tooMuch = buffer.append([8, 9][...], [10, 11][...])
        #expect(!tooMuch)
        #expect(buffer.count == 7)
        let rest = buffer.append([8, 9, 10][...])
        #expect(rest)
        let another = buffer.append([11][...])
        #expect(!another)
    }

    @Test("pieces end with a line where one ends in them")
    func pieces() {
        var buffer = OutputBuffer(limit: 1 << 20)
        var pieces: [String] = []
        let isTaken = buffer.append(Array("one\ntwo\nthree and more\nend".utf8)[...])
        #expect(isTaken)
        _ = buffer.flush(piece: 10) { bytes, from, count in
            pieces.append(String(decoding: bytes[from..<from + count], as: UTF8.self))
            return .bytes(count)
        }
        #expect(pieces == ["one\ntwo\n", "three and ", "more\nend"])
    }

    @Test("a reader that is gone is told apart from one that is full")
    func failure() {
        var buffer = OutputBuffer(limit: 100)
        let isTaken = buffer.append([1, 2, 3][...])
        #expect(isTaken)
        let whenFull = buffer.flush(piece: 10) { _, _, _ in .wouldBlock }
        #expect(whenFull == .blocked)
        let atTheEnd = buffer.flush(piece: 10) { _, _, _ in .failed(.brokenPipe) }
        #expect(atTheEnd == .failed(.brokenPipe))
        #expect(buffer.count == 3)
    }
}

@Suite("Channels between stages")
struct ChannelTests {
    @Test("a peer that does not read is not waited for; what it missed comes in order, up to a bound")
    func backlog() throws {
        let (ours, theirs) = try Channel.pair()
        var sent = 0
        for number in 0..<9000 {
            if (try? ours.send(ChannelMessage("number", ["\(number)"]))) != nil { sent += 1 }
        }
        #expect(ours.hasBacklog)
        #expect(sent < 9000)
        #expect(sent + ours.dropped == 9000)
        var received = 0
        while true {
            guard case .message(let message) = theirs.receive() else { break }
            #expect(message.fields == ["\(received)"])
            received += 1
            ours.flush()
        }
        #expect(received == sent)
        #expect(!ours.hasBacklog)
    }

    @Test("nothing to read is not the end")
    func arrivals() throws {
        var (ours, theirs): (Channel?, Channel) = try Channel.pair()
        guard case .nothingYet = theirs.receive() else {
            Issue.record("nothing was sent")
            return
        }
        try ours?.send(ChannelMessage("word"))
        ours = nil
        guard case .message = theirs.receive(), case .closed = theirs.receive() else {
            Issue.record("a message and the end were sent")
            return
        }
    }
}

@Suite("Sockets that come from a process that is not trusted")
struct UntrustedSocketTests {
    @Test("only a TCP socket that is not connected is taken, and it no longer blocks")
    func kinds() throws {
        guard case .success(let tcp) = InternetSocket.make(.tcp, v4: true),
            case .success(let udp) = InternetSocket.make(.udp, v4: true)
        else {
            Issue.record("no sockets")
            return
        }
        let fresh = Descriptor(OwnedDescriptor(owning: tcp))
        try fresh.setNonblocking(false)
        #expect(InternetSocket.isUnconnectedStream(fresh))
        #expect(!InternetSocket.isUnconnectedStream(Descriptor(OwnedDescriptor(owning: udp))))
        let (reading, writing) = try makePipe()
        #expect(!InternetSocket.isUnconnectedStream(reading) && !InternetSocket.isUnconnectedStream(writing))
        let (one, other) = try makeSocketPair(.stream)
        #expect(!InternetSocket.isUnconnectedStream(one) && !InternetSocket.isUnconnectedStream(other))
        let listener = try InternetSocket.bind(.tcp, Endpoint(IPAddress(v4: 0x7f00_0001), 0))
        #expect(InternetSocket.isUnconnectedStream(listener))
        try InternetSocket.startListening(listener, Endpoint(IPAddress(v4: 0x7f00_0001), 0))
        #expect(!InternetSocket.isUnconnectedStream(listener))
    }
}
