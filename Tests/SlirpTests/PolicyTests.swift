import Kernel
import Testing

@testable import Slirp

@Suite("Policy")
struct PolicyTests {
    private let policy = Policy(
        layout: NetworkLayout(), hostLoopback: .ports([LoopbackException(port: 5432, isUDP: false)]))

    private func route(_ text: String, _ port: UInt16 = 80, isUDP: Bool = false) throws -> Policy.Route {
        policy.route(Endpoint(try #require(IPAddress(text)), port), isUDP: isUDP)
    }

    @Test(
        "no spelling of the container's loopback gets through",
        arguments: [
            "10.0.2.2", "fd00::2", "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "::", "::1", "::127.0.0.1",
            "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "::ffff:0:127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
            "fe80::1", "ff02::1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "64:ff9b::169.254.169.254",
        ])
    func denied(_ text: String) throws {
        guard case .denied = try route(text) else {
            Issue.record("not denied")
            return
        }
    }

    @Test(
        "ordinary addresses are connected to as they are",
        arguments: ["198.18.0.1", "8.8.8.8", "169.253.1.1", "2001:db8::1", "64:ff9b::8.8.8.8"])
    func outside(_ text: String) throws {
        #expect(try route(text) == .outside(Endpoint(try #require(IPAddress(text)), 80)))
    }

    @Test(
        "the gateway leads to excepted ports of the loopback, the name server to names, the rest of the network nowhere"
    )
    func special() throws {
        #expect(try route("10.0.2.2", 5432) == .loopback(Endpoint(.loopback4, 5432)))
        #expect(try route("fd00::2", 5432) == .loopback(Endpoint(.loopback6, 5432)))
        #expect(try route("10.0.2.2", 5432, isUDP: true) == .denied(.hostLoopback))
        #expect(try route("10.0.2.3", 53) == .nameServer)
        #expect(try route("10.0.2.3", 80) == .denied(.nowhere))
        #expect(try route("10.0.2.50") == .unreachable && route("fd00::77") == .unreachable)
    }

    @Test("the networks are those that the container does not reach in a way of its own")
    func chosen() throws {
        func choice(_ taken: [String], cidr: String? = nil, copies: Bool = false) throws -> NetworkChoice {
            NetworkChoice(
                cidr: cidr.flatMap { Subnet($0) }, besideCopies: copies,
                taken: try taken.map { try #require(RoutedNetwork($0)) })
        }
        let free = try choice(["198.18.0.0/24 on eth0", "fd18::/64 on eth0"])
        #expect([free.subnet4, free.subnet6] == NetworkChoice.standard && free.hidden.isEmpty)
        let guest = try choice(["10.0.2.15/32 on eth0", "fd00::/64 on eth0"])
        #expect("\(guest.subnet4) \(guest.subnet6)" == "10.219.2.0/24 fd00:0:0:2::/64" && guest.hidden.isEmpty)
        #expect("\(try choice(["10.0.0.0/8 on tun0"]).subnet4)" == "192.168.219.0/24")
        let private3 = ["10.0.0.0/8", "192.168.0.0/16 on a", "172.16.0.0/12 on b"]
        #expect("\(try choice(private3).subnet4)" == "100.127.219.0/24")
        // A network that was named stays; its overlap is another message's matter.
        let named = try choice(["10.0.2.0/24 on eth0"], cidr: "10.0.2.0/24")
        #expect(named.subnet4 == NetworkChoice.standard4 && named.hidden.isEmpty)
        let none = try choice(["10.0.0.0/8 on a", "192.168.0.0/16 on a", "172.16.0.0/12 on a", "100.64.0.0/10 on a"])
        #expect(none.subnet4 == NetworkChoice.standard4 && none.hidden.map(\.description) == ["10.0.0.0/8 on a"])
        #expect("\(try choice(["10.0.2.0/24 on eth0"], copies: true).subnet4)" == "169.254.2.0/24")
        #expect("\(try choice(["169.254.0.0/17 on eth0"], copies: true).subnet4)" == "169.254.219.0/24")
        let layout = NetworkLayout(subnet4: guest.subnet4, subnet6: guest.subnet6)
        #expect(NetworkLayout(text: layout.text) == layout && layout.nameServer6 == IPAddress("fd00:0:0:2::3"))
    }

    private func copied(_ addresses: [String], _ routes: [String]) throws -> NetworkLayout {
        let network = InterfaceNetwork(
            addresses: try addresses.map { try #require(Subnet($0)) },
            routes: try routes.map { try #require(Route($0)) })
        return try #require(
            NetworkLayout(copying: network, services: NetworkChoice(besideCopies: true, taken: []), ipv6: true))
    }

    @Test("with copied addresses neighbours are behind the link, the workspace's own are nobody else's, services stay")
    func copied() throws {
        let layout = try copied(
            ["198.18.0.2/24", "198.18.0.3/24", "fd18::2/64"], ["0.0.0.0/0 via 198.18.0.1", "::/0 via fe80::9"])
        let policy = Policy(layout: layout)
        func route(_ text: String, _ port: UInt16 = 80) throws -> Policy.Route {
            policy.route(Endpoint(try #require(IPAddress(text)), port), isUDP: false)
        }
        for text in ["198.18.0.1", "198.18.0.77", "fd18::1", "8.8.8.8", "fd00::77", "10.0.2.2"] {
            let address = try #require(IPAddress(text))
            #expect(try route(text) == .outside(Endpoint(address, 80)), "\(text)")
            #expect(layout.answersFor(address), "\(text)")
        }
        for text in ["198.18.0.2", "198.18.0.3", "fd18::2"] {
            let address = try #require(IPAddress(text))
            #expect(try route(text) == .unreachable)
            #expect(!layout.answersFor(address))
        }
        #expect(try route("169.254.2.2") == .denied(.hostLoopback) && route("169.254.2.3", 53) == .nameServer)
        #expect(try route("127.0.0.1") == .denied(.nowhere) && route("169.254.169.254") == .denied(.metadata))
        // Nobody but the router is answered for by a link-local address: the workspace asks whether its own is free.
        #expect(layout.answersFor(try #require(IPAddress("fe80::9"))))
        #expect(!layout.answersFor(try #require(IPAddress("fe80::57:4bff:fe00:264"))))
        #expect(policy.isGroup(try #require(IPAddress("198.18.0.255"))))
        #expect(layout.router4 == IPAddress("198.18.0.1") && layout.router6 == IPAddress("fe80::9"))
        #expect(NetworkLayout(text: layout.text) == layout && NetworkLayout(text: "198.18.0.0/24 - true") == nil)
        let plain = NetworkLayout(ipv6: false)
        #expect(NetworkLayout(text: plain.text) == plain && !plain.answersFor(IPAddress(v4: 0x0a00_0232)))
    }

    @Test("a network of one address or two has no broadcast")
    func small() throws {
        for length in [31, 32] {
            let layout = try copied(["198.18.9.9/\(length)"], ["0.0.0.0/0 via 169.254.1.1"])
            #expect(!Policy(layout: layout).isGroup(layout.guest4))
            let router = try #require(IPAddress("169.254.1.1"))
            #expect(layout.subnet6 == nil && layout.answersFor(router))
        }
    }

    @Test(
        "a route's text is read as it was", arguments: ["0.0.0.0/0 via 10.0.2.2", "10.0.0.0/8", "fd00::/8 via fe80::1"])
    func routes(text: String) throws {
        #expect(try #require(Route(text)).description == text)
        for wrong in ["", "10.0.0.0", "\(text) dev", "10.0.0.0/8 via", "10.0.0.0/8 by 1.2.3.4", "10.0.0.0/8 via x"] {
            #expect(Route(wrong) == nil, "\(wrong)")
        }
    }

    @Test("slirp4netns's ways: all of the loopback, or no way to it; no names; metadata as any address")
    func slirp4netns() throws {
        func route(_ policy: Policy, _ text: String, _ port: UInt16) throws -> Policy.Route {
            policy.route(Endpoint(try #require(IPAddress(text)), port), isUDP: false)
        }
        var open = policy
        open.hostLoopback = .all
        open.deniesMetadata = false
        #expect(try route(open, "10.0.2.2", 1) == .loopback(Endpoint(.loopback4, 1)))
        #expect(try route(open, "fd00::2", 1) == .loopback(Endpoint(.loopback6, 1)))
        for text in ["169.254.169.254", "64:ff9b::169.254.169.254"] {
            #expect(try route(open, text, 80) == .outside(Endpoint(try #require(IPAddress(text)), 80)))
        }
        // At no other address.
        for text in ["127.0.0.1", "::1", "0.0.0.0", "64:ff9b::127.0.0.1", "::127.0.0.1"] {
            #expect(try route(open, text, 80) == .denied(.nowhere))
        }
        open.hostLoopback = .unreachable
        #expect(try route(open, "10.0.2.2", 1) == .noNetwork)
        open.answersNames = false
        #expect(try route(open, "10.0.2.3", 53) == .outside(Endpoint(try #require(IPAddress("10.0.2.3")), 53)))
    }

    @Test("a configuration comes through the channel as it was")
    func configuration() throws {
        let file = try makeMemoryFile("test", holding: [])
        for loopback in [
            HostLoopback.all, .unreachable, .ports([]), .ports([LoopbackException(port: 53, isUDP: true)]),
        ] {
            var sent = SlirpConfiguration(
                layout: NetworkLayout(subnet4: Subnet(IPAddress(v4: 0x0a07_0000), 24), ipv6: false), mtu: 9000,
                forwards: PortSet([80...90]), nameServers: [NameServer(IPAddress(v4: 1))], hostLoopback: loopback,
                checksumOffload: true, segmentationOffload: false, datagramOffload: true)
            sent.layout.leased4 = IPAddress(v4: 0x0a07_000f)
            sent.answersNames = false
            sent.deniesMetadata = false
            sent.outbound6 = .loopback6
            sent.hasLinkHeader = false
            sent.splicesLoopback = true
            sent.searchDomains = ["a.test", "b.test"]
            sent.egress.rules = [EgressPolicy.Rule(allows: false, .everything)]
            let message = sent.message(tap: file, listeners: file, table: file)
            let received = try #require(SlirpConfiguration(message))
            #expect(received.layout == sent.layout && received.hostLoopback == loopback && received.mtu == 9000)
            #expect(received.outbound6 == .loopback6 && received.outbound4 == nil)
            #expect(
                !received.answersNames && !received.deniesMetadata && !received.hasLinkHeader
                    && received.splicesLoopback)
            #expect(received.checksumOffload && !received.segmentationOffload && received.datagramOffload)
            #expect(received.searchDomains == sent.searchDomains && received.egress == sent.egress)
            var cut = message
            cut.fields.removeLast(2)
            #expect(SlirpConfiguration(cut) == nil)
        }
    }

    @Test("what metadata services have is denied, in every spelling, and a rule for a part of it names it")
    func metadata() throws {
        let denied = [
            "169.254.169.254", "169.254.170.2", "169.254.0.0", "169.254.255.255", "fd00:ec2::23", "fd00:ec2:ffff::1",
            "fd20:ce::254", "fd00:c1::a9fe:a9fe", "168.63.129.16", "100.100.100.200", "192.0.0.192",
            "64:ff9b::169.254.170.23",
        ]
        for text in denied {
            let address = try #require(IPAddress(text))
            #expect(policy.route(Endpoint(address, 80), isUDP: false) == .denied(.metadata), "\(text)")
            #expect(!NameServer(address).mayBeFollowed, "\(text)")
        }
        for text in ["169.253.255.255", "169.255.0.0", "168.63.129.17", "192.0.0.193", "fd00:ec3::1", "fd20:ce::255"] {
            let address = try #require(IPAddress(text))
            #expect(policy.route(Endpoint(address, 80), isUDP: false) == .outside(Endpoint(address, 80)), "\(text)")
            #expect(NameServer(address).mayBeFollowed, "\(text)")
        }
        func names(_ rule: String, _ address: String) throws -> Bool {
            var egress = EgressPolicy()
            egress.rules = [.init(allows: true, .network(try #require(Subnet(rule))))]
            return Egress(egress).names(try #require(IPAddress(address)), .tcp, 80)
        }
        #expect(try names("169.254.170.2/32", "169.254.170.2") && names("169.254.170.0/24", "169.254.170.2"))
        #expect(try names("fd00:ec2::/32", "fd00:ec2::23") && names("169.254.0.0/16", "169.254.170.2"))
        #expect(try !names("169.254.171.0/24", "169.254.170.2") && !names("169.0.0.0/8", "169.254.170.2"))
        #expect(try !names("0.0.0.0/0", "169.254.170.2") && !names("168.63.0.0/16", "168.63.129.16"))
    }

    @Test("what comes without a connection passes from addresses that were sent to, and that might be")
    func arrivals() {
        let guest = Endpoint(IPAddress(v4: 0x0a00_0264), 4000), other = Endpoint(IPAddress(v4: 0x0a00_0264), 4001)
        let a = IPAddress(v4: 0xc612_000a), b = IPAddress(v4: 0xc612_000b)
        let start = MonotonicInstant(nanoseconds: 1)
        var rules = EgressPolicy()
        rules.allowsByDefault = false
        rules.rules = [.init(allows: true, .network(Subnet(a, 32)))]
        var egress = Egress(rules)
        #expect(egress.admits(.udp, from: Endpoint(a, 7), to: guest, at: start) == false, "nothing was sent there")
        #expect(egress.decideDatagram(guest: guest, remote: Endpoint(a, 7), at: start) != .denied(place: 0))
        #expect(egress.admits(.udp, from: Endpoint(a, 99), to: guest, at: start) == true, "another port of the address")
        #expect(egress.admits(.udp, from: Endpoint(b, 7), to: guest, at: start) == false)
        #expect(egress.admits(.udp, from: Endpoint(a, 7), to: other, at: start) == false)
        #expect(egress.admits(.udp, from: Endpoint(a, 7), to: guest, at: start + .seconds(119)) == true)
        #expect(egress.admits(.udp, from: Endpoint(a, 7), to: guest, at: start + .seconds(238)) == true, "it was used")
        #expect(egress.admits(.udp, from: Endpoint(a, 7), to: guest, at: start + .seconds(400)) == false)
        rules.allowsByDefault = true
        rules.rules = [.init(allows: false, .network(Subnet(a, 32)))]
        egress = Egress(rules)
        #expect(egress.admits(.udp, from: Endpoint(a, 7), to: guest, at: start) == false)
        #expect(egress.admits(.udp, from: Endpoint(b, 7), to: guest, at: start) == true)
        egress = Egress(EgressPolicy())
        #expect(egress.admits(.udp, from: Endpoint(a, 7), to: guest, at: start) == true)
    }
}
