internal import CKernel

/// A tap device's descriptor and what it can do (tuntap.rst in the kernel's documentation).
public struct Tap {
    /// The open device. Each read or write is one frame behind a 10-byte virtio_net_hdr.
    public let descriptor: Descriptor
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
}
