internal import CKernel

/// A tap device's descriptor and what it can do (tuntap.rst in the kernel's documentation).
public struct Tap {
    /// The open device. Each read or write is one frame.
    public let descriptor: Descriptor
    /// Each frame is behind a 10-byte virtio_net_hdr.
    public let hasHeader: Bool
    /// Checksums may be left to the kernel.
    public let checksumOffload: Bool
    /// Frames may be TCP superpackets.
    public let segmentationOffload: Bool
    /// Frames may be UDP superpackets (Linux 6.2).
    public let datagramOffload: Bool

    /// Makes the interface in the calling process's network namespace. `gso: false`: one segment a frame.
    public static func open(_ name: String, gso: Bool, device: String = "/dev/net/tun") throws(KernelError) -> Tap {
        var offloads: CInt = 0
        let fd = try check(unsafe ck_tap_open(device, name, gso ? 1 : 0, &offloads), "open", device)
        return Tap(
            descriptor: Descriptor(OwnedDescriptor(owning: fd)), checksumOffload: offloads & 1 != 0,
            segmentationOffload: offloads & 2 != 0, datagramOffload: offloads & 4 != 0)
    }

    /// Takes over an open device of somebody else's making (a number that was inherited).
    public init(inherited number: Int32) throws(KernelError) {
        let hasHeader = try check(ck_tap_has_header(number), "use as a tap device", "descriptor \(number)")
        descriptor = Descriptor(OwnedDescriptor(owning: number))
        try descriptor.setNonblocking(true)
        self.hasHeader = hasHeader == 1
        checksumOffload = false
        segmentationOffload = false
        datagramOffload = false
    }

    private init(descriptor: Descriptor, checksumOffload: Bool, segmentationOffload: Bool, datagramOffload: Bool) {
        self.descriptor = descriptor
        hasHeader = true
        self.checksumOffload = checksumOffload
        self.segmentationOffload = segmentationOffload
        self.datagramOffload = datagramOffload
    }
}
