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
