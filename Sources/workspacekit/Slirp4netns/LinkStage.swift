internal import Kernel
internal import SystemPackage

/// A process that enters somebody else's namespaces, makes or finds the interface there, and hands out its device: its
/// parent stays outside.
enum LinkStage {
    /// The namespaces that the stage enters. The caller opens them: the files of a process that is not dumpable can be
    /// opened from the user namespace above it, and no longer from its own.
    struct Target {
        var network: Descriptor
        /// The user namespace to enter first, or nil to stay in the caller's.
        var users: Descriptor?
    }

    /// What it is told: see ``message(entering:)``.
    struct Plan: Equatable {
        var interface = "tap0"
        var mtu = 1500
        /// The interface is brought up and given this address and route; nil: it is left as it is found.
        var address: Subnet?, gateway: IPAddress?
        var hardwareAddress: [UInt8] = []
        /// Frames may be superpackets, and their checksums the kernel's.
        var offloads = true

        func message(entering target: Target) -> ChannelMessage {
            ChannelMessage(
                "make link",
                [
                    interface, "\(mtu)", address?.description ?? "",
                    gateway?.description ?? "", hardwareAddress.map { "\($0)" }.joined(separator: " "), "\(offloads)",
                ], descriptors: [target.network] + (target.users.map { [$0] } ?? []))
        }

        init() {}

        init?(_ message: ChannelMessage) {
            let f = message.fields
            guard message.kind == "make link", f.count == 6, let mtu = Int(f[1]) else { return nil }
            (interface, self.mtu) = (f[0], mtu)
            address = Subnet(f[2])
            gateway = IPAddress(f[3])
            hardwareAddress = f[4].split(separator: " ").compactMap { UInt8($0) }
            offloads = f[5] == "true"
        }
    }

    /// The whole life of the stage. Returns the exit code.
    static func main(channel number: Int32) -> UInt8 {
        let channel = Channel(Descriptor(OwnedDescriptor(owning: number)))
        do {
            guard let message = try channel.receive(within: .seconds(5)), let plan = Plan(message),
                let network = message.descriptors.first
            else { return 70 }
            if message.descriptors.count > 1 { try enterUserNamespace(message.descriptors[1]) }
            try enterNamespace(.network, network)
            let tap = try Tap.open(plan.interface, gso: plan.offloads)
            if let address = plan.address { try configure(plan, address) }
            try channel.send(
                ChannelMessage(
                    "link",
                    [tap.checksumOffload, tap.segmentationOffload, tap.datagramOffload].map {
                        "\($0 && plan.offloads)"
                    },
                    descriptors: [tap.descriptor]))
            return 0
        } catch {
            try? channel.send(ChannelMessage("failed", ["\(error)"]))
            return 71
        }
    }

    private static func configure(_ plan: Plan, _ address: Subnet) throws(KernelError) {
        let netlink = try RouteNetlink()
        try netlink.bringUp("lo")
        try netlink.bringUp(
            plan.interface, mtu: plan.mtu, address: plan.hardwareAddress.isEmpty ? nil : plan.hardwareAddress)
        guard let index = RouteNetlink.index(of: plan.interface) else {
            throw KernelError(call: "find interface", subject: plan.interface, errno: Errno(rawValue: 19))
        }
        try netlink.addAddress(address, interface: index)
        if let gateway = plan.gateway { try netlink.addRoute(.default(via: gateway), interface: index) }
    }
}
