import FoundationEssentials
import Glibc

@testable import Config
@testable import Kernel
@testable import Slirp

/// libFuzzer's entry points; FUZZ_TARGET says which of ours runs. `make fuzz SECONDS=60` runs them all.
///
/// What a target does with the bytes must never trap, and what it says of them must hold: an untrue word is a crash too.
enum Target: String, CaseIterable {
    case configuration, imports, wire, frames, names, leases, requests

    /// libFuzzer calls from one thread.
    nonisolated(unsafe) private static let frameTarget = FrameTarget()

    func run(_ bytes: [UInt8]) {
        switch self {
        case .frames: Self.frameTarget.run(bytes)
        case .names: checkNames(bytes)
        case .leases: checkLease(bytes)
        case .requests: checkRequests(bytes)
        case .configuration: checkConfiguration(bytes)
        case .imports: checkImport(bytes)
        case .wire: parseEverything(bytes)
        }
    }
}

/// One input of libFuzzer's; the result is always 0.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    guard let name = getenv("FUZZ_TARGET"), let target = Target(rawValue: String(cString: name)) else {
        fatalError("FUZZ_TARGET is one of \(Target.allCases.map(\.rawValue))")
    }
    target.run(bytes)
    return 0
}

private func checkConfiguration(_ bytes: [UInt8]) {
    let reading = Reading([Source(name: "f", bytes: bytes, role: bytes.count % 7 == 0 ? .extensions : .whole)])
    for diagnostic in reading.diagnostics { precondition(diagnostic.mark.line >= 1 && diagnostic.mark.column >= 1) }
    _ = reading.rendered(colour: true)
    _ = reading.diagnosticsJSON
    guard !reading.hasErrors else { return }
    _ = reading.effectiveText(json: true)
    let again = Reading(Array(reading.documentText(json: false).utf8), file: "again")
    precondition(!again.hasErrors && again.documentText(json: true) == reading.documentText(json: true))
}

private func checkImport(_ bytes: [UInt8]) {
    for name in ["automations.yaml", "devcontainer.json", "compose.yaml", "x.yml"] {
        let imported = Import(bytes, file: name)
        _ = imported.rendered()
        precondition(imported.text != nil || imported.diagnostics.contains { $0.severity == .error })
    }
}

/// Every codec on the same bytes: each is total.
private func parseEverything(_ bytes: [UInt8]) {
    let span = bytes.span.bytes
    _ = try? EthernetHeader(parsing: span)
    _ = try? ARPPacket(parsing: span)
    _ = try? IPHeader(parsing: span)
    _ = try? TCPHeader(parsing: span)
    _ = try? UDPHeader(parsing: span)
    _ = try? UDPHeader(parsing: span, coalesced: true)
    _ = try? ICMPHeader(parsing: span)
    checkLease(bytes)
    checkNames(bytes)
}

/// A DNS message: what is read of it is a name, a refusal of it can be read, and a stream of such messages gives the same
/// in any portions.
private func checkNames(_ bytes: [UInt8]) {
    let span = bytes.span.bytes
    if let message = try? DNSMessage(parsing: span) {
        precondition(message.name.utf8.count <= 255 && message.name == message.name.lowercased())
        var policy = EgressPolicy()
        policy.allowsByDefault = false
        policy.rules = [EgressPolicy.Rule(allows: true, .namesBelow("test"))]
        var egress = Egress(policy)
        let now = MonotonicInstant(nanoseconds: 1)
        let addresses = message.addresses(in: span)
        egress.pin(message.name, addresses, at: now)
        for (address, _) in addresses {
            let isAllowed = egress.decide(.tcp, Endpoint(address, 80), at: now) != .denied(place: 0)
            precondition(isAllowed == message.name.hasSuffix(".test"))
        }
        let refusal = message.refusal(of: span, code: 5, reason: "no")
        guard let read = try? DNSMessage(parsing: refusal.span.bytes) else { fatalError("an unreadable refusal") }
        precondition(read.isResponse && read.responseCode == 5 && read.name == message.name)
    }
    func messages(_ portion: Int) -> [[UInt8]] {
        var stream = DNSStream(limit: 512)
        var found: [[UInt8]] = []
        for start in stride(from: 0, to: bytes.count, by: portion) {
            let part = Array(bytes[start..<min(start + portion, bytes.count)])
            let goesOn = stream.take(part.span.bytes) { message in
                found.append(message.array(0..<message.byteCount))
                return true
            }
            if !goesOn { break }
        }
        return found
    }
    precondition(messages(1) == messages(7) && messages(1) == messages(max(1, bytes.count)))
}

/// A DHCP request, of either version: an answer is a reply to this very client.
private func checkLease(_ bytes: [UInt8]) {
    if let request = try? DHCPv6Request(parsing: bytes.span.bytes),
        let answer = DHCPv6Server(layout: NetworkLayout()).answer(request)
    {
        precondition([2, 7].contains(answer[0]) && Array(answer[1..<4]) == Array(bytes[1..<4]))
        precondition(answer.count < 1232 + bytes.count)
    }
    guard let request = try? DHCPRequest(parsing: bytes.span.bytes) else { return }
    guard let answer = DHCPServer(layout: NetworkLayout(), mtu: 1500).answer(request) else { return }
    precondition(answer.count >= 300 && answer[0] == 2 && Array(answer[4..<8]) == Array(bytes[4..<8]))
    precondition(Array(answer[28..<34]) == Array(bytes[28..<34]))
}

/// Requests to slirp4netns's API, one on a line: every answer is JSON, and the list is what was opened and not closed.
private func checkRequests(_ bytes: [UInt8]) {
    var api = HostForwardAPI(defaultGuest: NetworkLayout().guest4)
    var open: Set<Int> = []
    for request in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).prefix(32) {
        let answer = api.answer(
            Array(request),
            open: { entry in
                guard entry.hostPort % 3 != 0 else { return false }
                precondition(open.insert(entry.id).inserted)
                return true
            }, close: { precondition(open.remove($0) != nil) })
        precondition((try? JSONDecoder().decode(JSONValue.self, from: Data(answer.utf8))) != nil)
        precondition(Set(api.entries.map(\.id)) == open)
    }
}
