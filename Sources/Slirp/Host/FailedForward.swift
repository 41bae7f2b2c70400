public import Kernel
public import SystemPackage

/// A forward of the configuration that could not be opened, and the reason.
public struct FailedForward: Hashable, Sendable {
    /// The caller's number for it, below 2³¹.
    public let id: UInt32
    /// UDP; else TCP.
    public let isUDP: Bool
    /// Where it leads to, and where clients would come to.
    public let guest: Endpoint, outside: Endpoint
    /// The interface outside that clients would come by; empty: every one.
    public let interface: String
    /// The kernel's reason.
    public let errno: Errno

    /// A forward that could not be opened.
    public init(id: UInt32, isUDP: Bool, guest: Endpoint, outside: Endpoint, interface: String, errno: Errno) {
        (self.id, self.isUDP, self.guest, self.outside) = (id, isUDP, guest, outside)
        (self.interface, self.errno) = (interface, errno)
    }

    var fields: [String] {
        [
            "\(id)", "\(isUDP)", guest.address.description, "\(guest.port)", outside.address.description,
            "\(outside.port)", interface, "\(errno.rawValue)",
        ]
    }

    init?(fields f: [String]) {
        guard f.count == 8, let id = UInt32(f[0]), let guest = IPAddress(f[2]), let inside = UInt16(f[3]),
            let address = IPAddress(f[4]), let port = UInt16(f[5]), let errno = Int32(f[7])
        else { return nil }
        self.init(
            id: id, isUDP: f[1] == "true", guest: Endpoint(guest, inside), outside: Endpoint(address, port),
            interface: f[6], errno: Errno(rawValue: errno))
    }
}
