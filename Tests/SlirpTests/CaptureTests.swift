import Kernel
import Testing

@testable import Slirp

private func frame(_ hex: String) -> [UInt8] {
    let digits = hex.filter { $0 != " " }
    return stride(from: 0, to: digits.count, by: 2).compactMap {
        UInt8(digits.dropFirst($0).prefix(2), radix: 16)
    }
}

/// A SYN of 10.0.2.100:4242 to 198.18.0.1:443, and a query for www.a.test to 10.0.2.3.
private let syn = frame(
    "5255 0a00 0202 0257 4b00 0264 0800 4500 0028 0001 4000 4006 6858 0a00 0264 c612 0001 1092 01bb 0000 0001 0000 0000 5002 ffff 0000 0000"
)
private let query = frame(
    "5255 0a00 0202 0257 4b00 0264 0800 4500 0038 0001 4000 4011 224e 0a00 0264 0a00 0203 1092 0035 0024 0000 1234 0100 0001 0000 0000 0000 0377 7777 0161 0474 6573 7400 0001 0001"
)

@Suite("Capture")
struct CaptureTests {
    @Test("a line says who speaks to whom about what")
    func lines() {
        #expect(
            PacketSummary(syn[...]).text == "10.0.2.100:4242 > 198.18.0.1:443 tcp [S] seq 1 ack 0 win 65535 length 0")
        #expect(PacketSummary(query[...]).text == "10.0.2.100:4242 > 10.0.2.3:53 udp query www.a.test")
        // Cut anywhere it says what it can, and never traps.
        for length in 0..<query.count { _ = PacketSummary(query[..<length]).text }
    }

    @Test(
        "filters pick what their words say",
        arguments: [
            ("", true, true), ("tcp", true, false), ("udp port 53", false, true), ("port 4242", true, true),
            ("src port 443", false, false), ("dst port 443", true, false), ("host 10.0.2.3", false, true),
            ("not host 10.0.2.3", true, false), ("net 198.18.0.0/15 or port 53", true, true),
            ("tcp and not (port 443 or port 80)", false, false), ("!(udp)", true, false), ("ip6", false, false),
            ("ip and dst 198.18.0.1", true, false), ("not not tcp", true, false), ("arp || icmp", false, false),
        ])
    func filters(_ text: String, _ takesSyn: Bool, _ takesQuery: Bool) throws {
        let filter = try CaptureFilter(text)
        #expect(filter.matches(PacketSummary(syn[...])) == takesSyn)
        #expect(filter.matches(PacketSummary(query[...])) == takesQuery)
    }

    @Test(
        "what is no filter is told apart",
        arguments: [
            "port", "port x", "port 65536", "host", "net 10.0.0.0/33", "tcp and", "(tcp", "tcp)", "src tcp", "foo",
            "not", "or", String(repeating: "(", count: 1000),
        ])
    func malformed(_ text: String) {
        #expect(throws: CaptureFilter.SyntaxError.self) { try CaptureFilter(text) }
    }

    @Test("blocks have their lengths at both ends, padded to four bytes")
    func blocks() {
        let file =
            Pcapng.header(interface: "tap0") + Pcapng.packet(syn[..<53], length: 54, time: 1 << 40, isOutgoing: true)
            + Pcapng.statistics(frames: 3, dropped: 1, time: 7)
        func u32(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(file[at + $1]) << (8 * $1) } }
        var types: [Int] = []
        var at = 0
        while at < file.count {
            types.append(u32(at))
            let length = u32(at + 4)
            #expect(length % 4 == 0 && u32(at + length - 4) == length)
            at += length
        }
        #expect(types == [0x0a0d_0d0a, 1, 6, 5] && at == file.count)
    }
}
