internal import CKernel

/// What passes an interface, both ways, as it passes (packet(7)): superpackets whole, checksums that the kernel has yet to
/// fill in as they are.
public struct PacketCapture: ~Copyable {
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
    private let ring: RingMemory
    private var slot: UInt32 = 0

    /// A socket that hears what passes the interface of that name in the calling process's network namespace.
    public static func open(_ name: String) throws(KernelError) -> Descriptor {
        Descriptor(
            OwnedDescriptor(owning: try check(unsafe ck_capture_open(name), "open a packet socket", "on \(name)")))
    }

    /// Maps the ring of such a socket, made here or in another process.
    public init(_ socket: Descriptor) throws(KernelError) {
        ring = try RingMemory(socket)
        self.socket = socket
    }

    /// The next frame, of which as much as fits goes to the buffer; nil when none has come.
    public mutating func next(into buffer: inout [UInt8]) -> (frame: Frame, count: Int)? {
        for _ in 0..<RingMemory.slots {
            var meta = ck_captured()
            let taken = unsafe buffer.withUnsafeMutableBytes {
                unsafe ck_capture_take(ring.start, slot, $0.baseAddress, $0.count, &meta)
            }
            if taken == 0 { return nil }
            slot = (slot + 1) % RingMemory.slots
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
