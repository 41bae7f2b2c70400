import Kernel
import Testing

@testable import Slirp

@Suite("Forwards")
struct ForwardTests {
    private let layout = NetworkLayout()

    private func reach(_ addresses: [(IPAddress, Bool)]) -> Reachability {
        let sockets = addresses.map {
            ListeningSocket(endpoint: Endpoint($0.0, 80), isUDP: false, isV6Only: $0.1)
        }
        return Reachability.of(sockets, layout)[80] ?? []
    }

    @Test("where a server can be reached follows from the addresses it listens on")
    func reachability() {
        #expect(reach([(.any4, false)]) == [.v4, .loopback4])
        #expect(reach([(.any6, false)]) == [.v4, .v6, .loopback4, .loopback6])
        #expect(reach([(.any6, true)]) == [.v6, .loopback6])
        #expect(reach([(layout.guest4, false)]) == .v4 && reach([(layout.guest6, true)]) == .v6)
        #expect(reach([(.loopback4, false), (.loopback6, true)]) == [.loopback4, .loopback6])
        #expect(reach([(IPAddress(v4: 0xac11_0001), false)]) == [], "an address of a bridge inside")
    }

    private func path(_ reach: Reachability, from client: IPAddress, isUDP: Bool = false) -> InboundForward.Path {
        var forward = InboundForward(
            guest: Endpoint(.any6, 80), isUDP: isUDP, origin: .configured, outside: Endpoint(.any6, 8080), socket: nil)
        forward.reach = reach
        return forward.path(of: client, layout)
    }

    @Test("clients are led to where the server is, in their own family where that can be")
    func paths() {
        let far4 = IPAddress(v4: 0xc612_0001)
        let far6 = IPAddress(high: 0xfd18_0000_0000_0000, low: 1)
        let guest4 = Endpoint(layout.guest4, 80)
        let guest6 = Endpoint(layout.guest6, 80)
        let all: Reachability = [.v4, .v6, .loopback4, .loopback6]
        #expect(path(all, from: far4) == .link(guest4) && path(all, from: far6) == .link(guest6))
        #expect(path(.v4, from: far6) == .link(guest4) && path(.v6, from: far4) == .link(guest6))
        #expect(path([.loopback4, .loopback6], from: far4) == .refused && path([], from: far6) == .refused)
        let here4 = IPAddress(v4: 0x7f00_0009)
        #expect(path(all, from: here4) == .splice(Endpoint(.loopback4, 80)))
        #expect(path(all, from: .loopback6) == .splice(Endpoint(.loopback6, 80)))
        #expect(path(.loopback4, from: .loopback6) == .splice(Endpoint(.loopback4, 80)))
        #expect(path(.v4, from: here4) == .splice(guest4) && path([], from: here4) == .refused)
        // Datagrams have no splice, and are lost inside where nobody takes them.
        #expect(path(all, from: here4, isUDP: true) == .link(guest4))
        #expect(path([], from: far4, isUDP: true) == .link(guest4))
        // What the API asked for leads to one place.
        let fixed = InboundForward(
            guest: guest4, isUDP: false, origin: .requested, outside: Endpoint(.any4, 1), socket: nil)
        #expect(fixed.path(of: here4, layout) == .link(guest4) && fixed.isServed)
    }

    @Test("of declared ports those are open that somebody serves, and only for those who can be served")
    func declared() {
        let declared = PortSet([80...90, 33000...33010, 40000...40000])
        let wanted = DeclaredPort.wanted(
            declared, loopback: PortSet([81...81]),
            tcp: [80: [.v4, .loopback4], 81: .loopback6, 82: .loopback4, 91: .anywhere, 33000: .v6],
            udp: [82: .v4, 83: .loopback4, 33001: .v4, 40000: .v4])
        let expected: [DeclaredPort] = [
            DeclaredPort(port: 80, isUDP: false, place: .everywhere),
            DeclaredPort(port: 33000, isUDP: false, place: .everywhere),
            DeclaredPort(port: 81, isUDP: false, place: .loopback4),
            DeclaredPort(port: 81, isUDP: false, place: .loopback6),
            DeclaredPort(port: 82, isUDP: true, place: .everywhere),
            DeclaredPort(port: 40000, isUDP: true, place: .everywhere),
        ]
        #expect(wanted == Set(expected))
        #expect(Set(expected.map(\.id)).count == expected.count)
    }

    @Test("others see the forwards in the table, and what a place has counted begins anew with its next forward")
    func table() throws {
        let file = try makeMemoryFile("flows", holding: [])
        let table = try FlowTable(capacity: 64, file: file, secret: 7)
        var forward = InboundForward(
            guest: Endpoint(.any6, 80), isUDP: true, origin: .configured, outside: Endpoint(.any4, 8080), socket: nil)
        forward.state = .failed(.addressInUse)
        let first = table.freeForwardSlot()
        let place = try #require(first)
        table.setForward(place, ForwardSlot(forward, interface: "a-name-of-15-by"))
        table.countForward(place, at: MonotonicInstant(nanoseconds: 5))
        let second = table.freeForwardSlot()
        table.setForward(try #require(second), ForwardSlot(forward, interface: ""))
        var seen = try #require(ForwarderTable.read(file)).forwards
        #expect(seen.count == 2 && seen[0].clients == 1 && seen[0].lastAt?.nanoseconds == 5)
        #expect(seen[0].interface == "a-name-of-15-by" && seen[1].interface == nil && seen[1].lastAt == nil)
        #expect(seen[0].isUDP && seen[0].insidePort == 80 && seen[0].insideAddress == nil)
        #expect(seen[0].state == .failed("Address already in use") && seen[0].outside.port == 8080)
        table.freeForward(place)
        seen = try #require(ForwarderTable.read(file)).forwards
        #expect(seen.count == 1)
        let again = table.freeForwardSlot()
        #expect(again == place)
        forward.state = .open
        table.setForward(place, ForwardSlot(forward, interface: ""))
        seen = try #require(ForwarderTable.read(file)).forwards
        #expect(seen[0].clients == 0 && seen[0].state == .open)
    }
}
