import Glibc

@testable import Config
@testable import Kernel
@testable import Slirp

/// libFuzzer's entry points; FUZZ_TARGET says which of ours runs. `make fuzz SECONDS=60` runs them all.
///
/// What a target does with the bytes must never trap, and what it says of them must hold: an untrue word is a crash too.
enum Target: String, CaseIterable {
    case configuration, imports, wire

    func run(_ bytes: [UInt8]) {
        switch self {
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
    if let request = try? DHCPRequest(parsing: span) {
        let layout = NetworkLayout(subnet4: Subnet(IPAddress(v4: 0x0a00_0200), 24), ipv6: true)
        _ = DHCPServer(layout: layout, mtu: 1500).answer(request)
    }
}
