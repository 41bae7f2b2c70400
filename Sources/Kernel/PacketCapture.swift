internal import CKernel
internal import SystemPackage

/// What passes an interface, both ways, as it passes (packet(7)): superpackets whole, checksums that the kernel has yet to
/// fill in as they are.
@safe public struct PacketCapture: ~Copyable {
    /// One frame's circumstances.
    public struct Frame: Hashable, Sendable {
        /// When, in nanoseconds since 1970.
        public let time: UInt64
        /// Its length on the interface.
        public let length: Int
        /// It leaves the namespace by this interface.
        public let isOutgoing: Bool
    }

    private let socket: Descriptor
    private let ring: UnsafeMutableRawPointer
    private let count: Int
    private var slot: UInt32 = 0
    private static let slots = UInt32(CK_RING_BLOCK / CK_RING_FRAME * CK_RING_BLOCKS)

    /// A socket that hears what passes the interface of that name in the calling process's network namespace.
    public static func open(_ name: String) throws(KernelError) -> Descriptor {
        Descriptor(
            OwnedDescriptor(owning: try check(unsafe ck_capture_open(name), "open a packet socket", "on \(name)")))
    }

    /// Maps the ring of such a socket, made here or in another process.
    public init(_ socket: Descriptor) throws(KernelError) {
        var address: UnsafeMutableRawPointer?
        var count = 0
        _ = try check(unsafe ck_packet_map(socket.number, &address, &count), "map the packet ring")
        guard let address = unsafe address else { throw KernelError(call: "map the packet ring", errno: .noMemory) }
        self.socket = socket
        unsafe ring = address
        self.count = count
    }

    deinit { _ = unsafe ck_unmap(ring, count) }

    /// The next frame, of which as much as fits goes to the buffer; nil when none has come.
    public mutating func next(into buffer: inout [UInt8]) -> (frame: Frame, count: Int)? {
        for _ in 0..<Self.slots {
            var meta = ck_captured()
            let taken = unsafe buffer.withUnsafeMutableBytes {
                unsafe ck_capture_take(ring, slot, $0.baseAddress, $0.count, &meta)
            }
            if taken == 0 { return nil }
            slot = (slot + 1) % Self.slots
            guard taken > 0 else { continue }
            return (
                Frame(time: meta.nanoseconds, length: Int(meta.length), isOutgoing: meta.outgoing != 0), taken
            )
        }
        return nil
    }

    /// Frames that came since the last call, and how many of them found no room.
    public func statistics() -> (frames: Int, dropped: Int) {
        var frames: UInt32 = 0
        var dropped: UInt32 = 0
        _ = unsafe ck_capture_statistics(socket.number, &frames, &dropped)
        return (Int(frames), Int(dropped))
    }
}
