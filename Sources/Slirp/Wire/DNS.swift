internal import Kernel

/// A DNS message as far as a policy about names needs it (RFC 1035, 4.1): its one question, and what the answers say of it.
/// Reading is total: nothing traps, whatever the bytes.
struct DNSMessage: Sendable {
    static let headerLength = 12
    /// RFC 1035, 4.1.1.
    static let serverFailure: UInt8 = 2, nameError: UInt8 = 3, notImplemented: UInt8 = 4, refused: UInt8 = 5
    private static let typeA: UInt16 = 1, typeCNAME: UInt16 = 5, typeAAAA: UInt16 = 28, typeOPT: UInt16 = 41

    let id: UInt16
    let isResponse: Bool
    let responseCode: UInt8
    /// In lower case, without the root's dot; a byte that no host name has shows as `?`, so that no label can pass for two.
    let name: String
    let type: UInt16
    /// Where the question ends.
    let questionEnd: Int
    private let answers: Int, authorities: Int, additionals: Int

    /// Reads header and question. A message with no question or several is malformed: nobody sends one.
    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= Self.headerLength else { throw .truncated }
        id = bytes.u16(0)
        let flags = bytes.u16(2)
        guard bytes.u16(4) == 1 else { throw .malformed }
        isResponse = flags & 0x8000 != 0
        responseCode = UInt8(truncatingIfNeeded: flags & 15)
        answers = Int(bytes.u16(6))
        authorities = Int(bytes.u16(8))
        additionals = Int(bytes.u16(10))
        let (name, end) = try Self.name(in: bytes, at: Self.headerLength)
        guard end + 4 <= bytes.byteCount else { throw .truncated }
        self.name = name
        type = bytes.u16(end)
        questionEnd = end + 4
    }

    /// The question's name, type and class as they stand in the message, the name in lower case: by it and the id an answer
    /// belongs to a query (RFC 5452, 9.1).
    func question(in bytes: RawSpan) -> [UInt8] {
        var question = bytes.array(Self.headerLength..<questionEnd)
        // A label's length is below 64, so that it is no letter.
        for position in 0..<max(0, question.count - 4) where (0x41...0x5a).contains(question[position]) {
            question[position] |= 0x20
        }
        return question
    }

    /// Whether a message answers the query with that id and that ``question(in:)``. One that reports an error may leave the
    /// question out, as servers do that did not understand it.
    static func isReply(_ bytes: RawSpan, id: UInt16, question: [UInt8]) -> Bool {
        guard bytes.byteCount >= headerLength, bytes.u16(0) == id, bytes.u16(2) & 0x8000 != 0 else { return false }
        if bytes.u16(4) == 0 { return bytes.u8(3) & 15 != 0 }
        guard let read = try? DNSMessage(parsing: bytes) else { return false }
        return read.question(in: bytes) == question
    }

    /// Whether an answer with this code leaves it open what another server would answer, as resolvers take it.
    static func isRefusal(code: UInt8) -> Bool { code == serverFailure || code == notImplemented || code == refused }

    /// A name and where what follows it begins. Compression pointers lead backwards only (RFC 1035, 4.1.4), so that
    /// reading ends, and not into the header.
    private static func name(in bytes: RawSpan, at start: Int) throws(PacketError) -> (name: String, end: Int) {
        var text: [UInt8] = []
        var at = start
        var end: Int?
        var lowest = start
        while true {
            guard at < bytes.byteCount else { throw .truncated }
            let length = Int(bytes.u8(at))
            switch length >> 6 {
            case 0 where length == 0: return (String(decoding: text, as: UTF8.self), end ?? at + 1)
            case 0:
                guard at + 1 + length <= bytes.byteCount else { throw .truncated }
                guard text.count + length <= 254 else { throw .malformed }
                if !text.isEmpty { text.append(UInt8(ascii: ".")) }
                for position in at + 1...at + length {
                    switch bytes.u8(position) {
                    case let byte where byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z"): text.append(byte | 0x20)
                    case let byte
                    where byte >= UInt8(ascii: "a") && byte <= UInt8(ascii: "z")
                        || byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") || byte == UInt8(ascii: "-")
                        || byte == UInt8(ascii: "_"):
                        text.append(byte)
                    default: text.append(UInt8(ascii: "?"))
                    }
                }
                at += 1 + length
            case 3:
                guard at + 2 <= bytes.byteCount else { throw .truncated }
                let target = Int(bytes.u16(at) & 0x3fff)
                guard target >= Self.headerLength, target < lowest else { throw .malformed }
                end = end ?? at + 2
                lowest = target
                at = target
            default: throw .malformed
            }
        }
    }

    private struct Record {
        let owner: String
        let type: UInt16
        let timeToLive: UInt32
        let data: Range<Int>
    }

    /// The addresses that the answers give the name, along its chain of aliases, with the least lifetime on the way there.
    /// What follows something unreadable does not count.
    func addresses(in bytes: RawSpan) -> [(address: IPAddress, timeToLive: UInt32)] {
        guard isResponse, responseCode == 0 else { return [] }
        var records: [Record] = []
        var at = questionEnd
        for _ in 0..<answers {
            guard let (owner, end) = try? Self.name(in: bytes, at: at), end + 10 <= bytes.byteCount else { break }
            let data = end + 10..<end + 10 + Int(bytes.u16(end + 8))
            guard data.upperBound <= bytes.byteCount else { break }
            // RFC 2181, 8: a lifetime with the highest bit set is zero.
            let lifetime = bytes.u32(end + 4)
            records.append(
                Record(
                    owner: owner, type: bytes.u16(end), timeToLive: lifetime >> 31 == 0 ? lifetime : 0, data: data))
            at = data.upperBound
        }
        var found: [(IPAddress, UInt32)] = []
        var alias = (name: name, timeToLive: UInt32.max)
        for _ in 0..<16 {
            for record in records where record.owner == alias.name {
                let lifetime = min(alias.timeToLive, record.timeToLive)
                let start = record.data.lowerBound
                switch (record.type, record.data.count) {
                case (Self.typeA, 4): found.append((IPAddress(v4: bytes.u32(start)), lifetime))
                case (Self.typeAAAA, 16):
                    found.append((IPAddress(high: bytes.u64(start), low: bytes.u64(start + 8)), lifetime))
                default: break
                }
            }
            guard let next = records.first(where: { $0.owner == alias.name && $0.type == Self.typeCNAME }),
                let (target, _) = try? Self.name(in: bytes, at: next.data.lowerBound)
            else { break }
            alias = (target, min(alias.timeToLive, next.timeToLive))
        }
        return found
    }

    /// The answer to this query that says no, and why where the client understands it (RFC 8914: 15, blocked).
    func refusal(of query: RawSpan, code: UInt8, reason: String) -> [UInt8] {
        var answer = query.array(0..<questionEnd)
        // An answer, with recursion; the query's opcode and wish for recursion.
        answer[2] = 0x80 | answer[2] & 0x79
        answer[3] = 0x80 | code
        for position in 6..<Self.headerLength { answer[position] = 0 }
        guard answers == 0, authorities == 0, additionals > 0, questionEnd + 11 <= query.byteCount,
            query.u8(questionEnd) == 0, query.u16(questionEnd + 1) == Self.typeOPT
        else { return answer }
        answer[11] = 1
        let text = Array(reason.utf8.prefix(200))
        let optionLength = 2 + text.count
        answer += [0, 0, UInt8(Self.typeOPT), 4, 208 /* 1232 bytes */, 0, 0, 0, 0, 0, UInt8(4 + optionLength)]
        answer += [0, 15, 0, UInt8(optionLength), 0, 15] + text
        return answer
    }
}

/// Messages of a DNS connection over TCP, each behind its length (RFC 1035, 4.2.2), put together from what comes in any
/// portions. Holds at most one message.
struct DNSStream: Sendable {
    /// Longer messages are not put together.
    let limit: Int
    private var pending: [UInt8] = []

    init(limit: Int) { self.limit = limit }

    /// Takes the next bytes, and calls `body` for each message that is complete with them. False when a message is longer
    /// than the limit, or `body` says so: then the stream is of no more use.
    mutating func take(_ bytes: RawSpan, _ body: (RawSpan) -> Bool) -> Bool {
        var at = 0
        while at < bytes.byteCount {
            let part = min(wanted - pending.count, bytes.byteCount - at)
            pending += bytes.array(at..<at + part)
            at += part
            guard pending.count >= 2 else { continue }
            if wanted - 2 > limit { return false }
            guard pending.count == wanted else { continue }
            let isTaken = unsafe body(pending.span.bytes.extracting(2..<pending.count))
            if !isTaken { return false }
            pending.removeAll(keepingCapacity: true)
        }
        return true
    }

    /// Bytes of the message at hand with its length before it; only the length while that is not known.
    private var wanted: Int { pending.count < 2 ? 2 : 2 + Int(pending[0]) << 8 + Int(pending[1]) }
}
