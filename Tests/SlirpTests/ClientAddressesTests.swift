import Kernel
import Testing

@testable import Slirp

@Suite("ClientAddresses")
struct ClientAddressesTests {
    private let client = IPAddress(v4: 0xac11_0001)
    private let start = MonotonicInstant.now

    @Test("an answer is kept for a second, for each address")
    func keeps() {
        var addresses = ClientAddresses(at: start)
        var asked: [IPAddress] = []
        func look(_ address: IPAddress, after: Duration, answer: Bool) -> Bool {
            addresses.isAnswered(address, at: start + after) {
                asked.append($0)
                return answer
            }
        }
        #expect(look(client, after: .zero, answer: false) == false)
        #expect(look(client, after: .milliseconds(999), answer: true) == false)
        #expect(look(.loopback6, after: .milliseconds(999), answer: true))
        #expect(asked == [client, .loopback6])
        #expect(look(client, after: .seconds(1), answer: true))
        #expect(asked == [client, .loopback6, client])
    }

    @Test("a flood of clients takes no more memory than so many")
    func bounded() {
        var addresses = ClientAddresses(at: start)
        var asked = 0
        for round in 0..<2 {
            for n in 0..<UInt32(ClientAddresses.capacity) * 3 {
                _ = addresses.isAnswered(IPAddress(v4: n), at: start) { _ in
                    asked += 1
                    return true
                }
            }
            #expect(asked >= ClientAddresses.capacity * 3 * (round + 1) - ClientAddresses.capacity)
        }
    }
}

@Suite("ClientNames")
struct ClientNamesTests {
    private let gateway = IPAddress(v4: 0x0a00_0202)

    @Test("with its own address a client has its own port, and no other")
    func own() {
        let client = Endpoint(IPAddress(v4: 0xac11_0001), 5600)
        let names = ClientNames(client: client, address: client.address)
        #expect(names.count == 1 && names[0] == client)
    }

    @Test("with the gateway's it may have others, the same each time, and other clients have others")
    func substituted() {
        var found: [UInt16: Int] = [:]
        for host in 0..<UInt32(200) {
            let names = ClientNames(client: Endpoint(IPAddress(v4: 0xac11_0000 + host), 5600), address: gateway)
            #expect(names[0] == Endpoint(gateway, 5600))
            let ports = (1..<names.count).map { names[$0].port }
            #expect(Set(ports).count >= names.count - 2 && ports.allSatisfy { $0 >= 32768 })
            #expect((1..<names.count).map { names[$0].port } == ports)
            for port in ports { found[port, default: 0] += 1 }
        }
        // Of 3,000 in 32,768 few are taken twice.
        #expect(found.count > 2700)
    }
}
