public import Kernel
internal import SystemPackage

/// A forward's place in the table: plain data. A free place is all zero.
struct ForwardSlot {
    static let stride = 128, capacity = 8192

    var origin: UInt8 = 0
    var isUDP: UInt8 = 0
    /// 1: open, 2: refusing, 3: failed.
    var state: UInt8 = 0
    var errno: Int32 = 0
    var outside = Endpoint(.any4, 0), guest = Endpoint(.any4, 0)
    /// Sixteen bytes of an interface's name.
    var interface: (UInt64, UInt64) = (0, 0)
    /// Clients that came, and when the last one did.
    var clients: UInt64 = 0, lastAt: Int64 = 0

    init(_ forward: InboundForward, interface: String) {
        origin = forward.origin.rawValue
        isUDP = forward.isUDP ? 1 : 0
        switch forward.state {
        case .unknown: state = 0
        case .open: state = 1
        case .refusing: state = 2
        case .failed(let error):
            state = 3
            errno = error.rawValue
        }
        outside = forward.outside
        guest = forward.guest
        for (place, byte) in interface.utf8.prefix(16).enumerated() {
            let bits = UInt64(byte) << (8 * UInt64(place % 8))
            if place < 8 { self.interface.0 |= bits } else { self.interface.1 |= bits }
        }
    }

    var interfaceName: String {
        let bytes = (0..<16).map { place in
            UInt8(truncatingIfNeeded: (place < 8 ? interface.0 : interface.1) >> (8 * UInt64(place % 8)))
        }
        return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}

/// A port of the outside that leads inside, as others see it who look into the forwarder's table.
public struct ForwardSnapshot: Hashable, Sendable {
    /// What its socket does.
    public enum State: Hashable, Sendable {
        /// Clients are let in.
        case open
        /// Clients are refused, as nothing listens inside.
        case refusing
        /// It could not be opened; the errno's text.
        case failed(String)
    }
    /// Why it is there.
    public let origin: ForwardOrigin
    /// UDP; else TCP.
    public let isUDP: Bool
    /// Whether clients are let in.
    public let state: State
    /// Where clients come to.
    public let outside: Endpoint
    /// Only by this interface; nil: by all.
    public let interface: String?
    /// The port inside, and the address where it leads to one only.
    public let insidePort: UInt16, insideAddress: IPAddress?
    /// Clients that came, and when the last one did; nil: none yet.
    public let clients: UInt64, lastAt: MonotonicInstant?

    init?(_ slot: ForwardSlot) {
        guard let origin = ForwardOrigin(rawValue: slot.origin) else { return nil }
        self.origin = origin
        isUDP = slot.isUDP == 1
        switch slot.state {
        case 1: state = .open
        case 2: state = .refusing
        case 3: state = .failed(Errno(rawValue: slot.errno).description)
        default: return nil
        }
        outside = slot.outside
        interface = slot.interfaceName.isEmpty ? nil : slot.interfaceName
        insidePort = slot.guest.port
        insideAddress = slot.guest.address == .any6 ? nil : slot.guest.address
        clients = slot.clients
        lastAt = slot.clients == 0 ? nil : MonotonicInstant(nanoseconds: slot.lastAt)
    }
}
