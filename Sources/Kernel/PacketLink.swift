internal import CKernel
internal import SystemPackage

/// The forwarder's end of a pair of interfaces, for machines without tap devices: frames come and go through a packet socket
/// (packet(7)), each behind a 10-byte virtio_net_hdr, superpackets whole.
public enum PacketLink {
    /// A socket on the interface of that name in the calling process's network namespace, with a ring for what comes.
    ///
    /// The ring is memory of the kernel's, 12 MiB, which counts as the workspace's; without it the socket's buffer would hold
    /// three superpackets (net.core.rmem_max).
    public static func open(_ name: String) throws(KernelError) -> Descriptor {
        Descriptor(
            OwnedDescriptor(owning: try check(unsafe ck_packet_open(name), "open a packet socket", "on \(name)")))
    }

    /// Makes the namespace's own end send single segments only (`ethtool -K NAME tso off gso off`).
    public static func turnSegmentationOff(_ name: String) throws(KernelError) {
        _ = try check(unsafe ck_segmentation_off(name), "turn segmentation off", "on \(name)")
    }
}

/// A packet socket's ring, mapped for as long as this lives.
@safe struct RingMemory: ~Copyable {
    static let slots = UInt32(CK_RING_BLOCK / CK_RING_FRAME * CK_RING_BLOCKS)
    let start: UnsafeMutableRawPointer
    private let count: Int

    init(_ socket: Descriptor) throws(KernelError) {
        var address: UnsafeMutableRawPointer?
        var count = 0
        _ = try check(unsafe ck_packet_map(socket.number, &address, &count), "map the packet ring")
        guard let address = unsafe address else { throw KernelError(call: "map the packet ring", errno: .noMemory) }
        unsafe start = address
        self.count = count
    }

    deinit { _ = unsafe ck_unmap(start, count) }
}

/// The ring of a ``PacketLink``, mapped: frames are taken in the order they came.
public struct PacketRing: ~Copyable {
    private let ring: RingMemory
    /// Where the next frame comes; nil while that is unknown: somebody may have used the ring before.
    private var slot: UInt32?

    /// Frames that it holds.
    public static var capacity: Int { Int(RingMemory.slots) }

    /// Maps the ring of a packet socket. Frames that came before are the first ones taken.
    public init(_ socket: Descriptor) throws(KernelError) { ring = try RingMemory(socket) }

    /// Copies the next frame to the start of the block; its length with the header. nil when none has come.
    @inline(__always)
    public mutating func take(into block: borrowing Region) -> Int? {
        if slot == nil {
            let found = unsafe ck_packet_find(ring.start)
            if found < 0 { return nil }
            slot = UInt32(found)
        }
        for _ in 0..<RingMemory.slots {
            guard let slot else { return nil }
            let taken = unsafe ck_packet_take(ring.start, slot, block.bytes.baseAddress, block.bytes.count)
            if taken == 0 { return nil }
            self.slot = (slot + 1) % RingMemory.slots
            if taken > 0 { return taken }
        }
        return nil
    }
}
