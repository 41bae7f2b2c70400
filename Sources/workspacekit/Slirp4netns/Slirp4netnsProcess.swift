internal import Control
internal import Glibc
internal import Kernel
internal import Slirp
internal import SystemPackage

/// # Theory of operation
///
/// Called as `slirp4netns`: the same command line, for Podman, RootlessKit and whoever else calls it. This process speaks
/// with them (ready, exit and API), and parses no packet; the forwarder, its child, is the one that every workspace has:
/// without capabilities, in an empty root, behind its filter, whatever the command line says.
///
///     slirp4netns ──┬─ link stage: enters the namespaces, makes the interface, hands out its device, ends
///                   └─ slirp: the forwarder
final class Slirp4netnsProcess {
    /// Whether the program was called so.
    static func isCalled(_ path: String) -> Bool { path.split(separator: "/").last == "slirp4netns" }

    private let options: Slirp4netnsOptions
    private let errors = StandardOutput(2, name: "standard error")
    private let layout: NetworkLayout
    private var api: HostForwardAPI
    private var apiListener: Descriptor?
    private var clients: [APIClient] = []
    private var forwarder: (pid: Int32, channel: Channel)?
    /// The target's user namespace, opened before anything enters it; nil once the sandbox needs it no more.
    private var usersNamespace: Descriptor?

    private struct APIClient {
        let socket: Descriptor
        var request: [UInt8] = []
    }

    private enum Token {
        static let exit: UInt64 = 1 << 32, signals: UInt64 = 2 << 32, forwarder: UInt64 = 3 << 32
        static let api: UInt64 = 4 << 32, client: UInt64 = 5 << 32, resolver: UInt64 = 6 << 32
    }

    /// The whole life of the process; the exit code.
    static func main(_ arguments: [String]) -> Int32 {
        let options: Slirp4netnsOptions
        do throws(Slirp4netnsOptions.UsageError) {
            switch try Slirp4netnsOptions.parse(arguments) {
            case .help:
                writeLine(Slirp4netnsOptions.usage, to: 1)
                return 0
            case .version:
                writeLine(version, to: 1)
                return 0
            case .run(let found): options = found
            }
        } catch {
            writeLine("slirp4netns: \(error.message)\n", to: 2)
            if error.showsUsage { writeLine(Slirp4netnsOptions.usage, to: 2) }
            return 1
        }
        for warning in options.warnings { writeLine("WARNING: \(warning)\n", to: 2) }
        do throws(KernelError) {
            return try Slirp4netnsProcess(options).run()
        } catch {
            writeLine("slirp4netns: \(error)\n", to: 2)
            return 1
        }
    }

    private static let version = """
        slirp4netns version 1.3.2
        commit: workspacekit \(Version.current)
        libslirp: workspacekit \(Version.current)
        SLIRP_CONFIG_VERSION_MAX: 6
        libseccomp: none

        """

    private let resolver = OutsideFile("/etc", "resolv.conf")

    init(_ options: Slirp4netnsOptions) {
        self.options = options
        var layout = NetworkLayout(subnet4: options.network, ipv6: options.enablesIPv6)
        layout.leased4 = IPAddress(v4: layout.subnet4.address.v4 | 15)
        self.layout = layout
        api = HostForwardAPI(defaultGuest: layout.guest4)
    }

    func run() throws(KernelError) -> Int32 {
        ignore(.pipe)
        let poller = try Poller()
        let signals = try SignalReader([.child])
        try poller.add(signals.number, .readable, token: Token.signals)
        guard let link = try makeLink() else { return end(1) }
        printBanner()
        if let path = options.apiSocket {
            let listener = try LocalSocket.listen(path)
            apiListener = listener
            try poller.add(listener.number, .readable, token: Token.api)
        }
        var watch = OutsideWatch([resolver])
        if let watch = watch.descriptor { try? poller.add(watch.number, .readable, token: Token.resolver) }
        let channel = try configureForwarder(link)
        try poller.add(channel.descriptor.number, .readable, token: Token.forwarder)
        try enterSandbox()
        if let ready = options.readyDescriptor {
            _ = Kernel.write(ready, Array("1".utf8))
            _ = OwnedDescriptor(owning: ready)
        }
        // KERNEL: what poll(2) does not know (POLLNVAL) or is always ready for (a file), epoll refuses: the end either way.
        if let exit = options.exitDescriptor {
            do { try poller.add(exit, [.readable, .peerClosed], token: Token.exit) } catch { return end(0) }
        }
        while true {
            channel.settle(poller, token: Token.forwarder)
            for index in 0..<(try poller.wait(watch.dueAt.map { max(.zero, $0 - .now) })) {
                let event = poller.event(index)
                switch event.token & 0xffff_ffff_0000_0000 {
                case Token.exit: return end(0)
                case Token.signals:
                    while signals.next() != nil {}
                    if case .ended(_, let status) = reap() { return end(status.isSuccess ? 0 : 1) }
                case Token.forwarder:
                    let message: ChannelMessage
                    switch channel.receive() {
                    case .message(let received): message = received
                    case .nothingYet: continue
                    case .closed: return end(forwarderCode())
                    }
                    if case .note(let text)? = SlirpReport(message) { tell(text) }
                case Token.api: acceptClient(poller)
                case Token.resolver:
                    watch.take(at: .now)
                default: serve(Int32(truncatingIfNeeded: event.token), poller)
                }
            }
            if watch.isDue(at: .now), let text = resolver.text() {
                try? channel.send(SlirpCommand.nameServers(ResolverFile(text).servers).message)
            }
        }
    }

    /// The forwarder ends well when its link does: the namespace is gone, or the other end of the socket.
    private func forwarderCode() -> Int32 {
        for _ in 0..<1000 {
            if case .ended(_, let status) = reap() { return status.isSuccess ? 0 : 1 }
            pause(.milliseconds(1))
        }
        return 1
    }

    private func tell(_ text: String) {
        errors.append("slirp4netns: \(text)\n")
        errors.flush()
    }

    private func end(_ code: Int32) -> Int32 {
        if let forwarder { send(.kill, to: forwarder.pid) }
        if let path = options.apiSocket { LocalSocket.remove(path) }
        return code
    }

    // MARK: bringing up

    private struct Link {
        let device: Descriptor
        var hasHeader = true
        var checksum = false, tso = false, uso = false
    }

    /// The device; nil when it has been said why there is none.
    private func makeLink() throws(KernelError) -> Link? {
        switch options.target {
        case .bess(let path):
            return Link(device: try LocalSocket.connectForMessages(path), hasHeader: false)
        case .namespace(.tapfd, let number):
            let tap = try Tap(inherited: Int32(number) ?? -1)
            return Link(device: tap.descriptor, hasHeader: tap.hasHeader)
        case .namespace(let kind, let name):
            let network = try Files.open(kind == .pid ? "/proc/\(name)/ns/net" : name, flags: 0)
            usersNamespace = try (options.usersPath ?? (kind == .pid ? "/proc/\(name)/ns/user" : nil)).map {
                path throws(KernelError) in try Files.open(path, flags: 0)
            }
            var plan = LinkStage.Plan()
            plan.interface = options.interface
            plan.mtu = options.mtu
            plan.offloads = !options.disablesOffload
            plan.hardwareAddress = options.hardwareAddress ?? []
            if options.configures {
                plan.address = Subnet(layout.guest4, options.network.length)
                plan.gateway = layout.gateway4
            }
            return try runLinkStage(plan, LinkStage.Target(network: network, users: usersNamespace))
        }
    }

    private func runLinkStage(_ plan: LinkStage.Plan, _ target: LinkStage.Target) throws(KernelError) -> Link? {
        let (ours, theirs) = try Channel.pair()
        var spawnPlan = SpawnPlan(
            path: "/proc/self/exe", arguments: ["workspacekit", "link"], environment: currentEnvironment(),
            descriptors: [0, 2, 2, theirs.descriptor.number])
        spawnPlan.deathSignal = .kill
        let pid = try spawn(spawnPlan)
        withExtendedLifetime(theirs) {}
        try ours.send(plan.message(entering: target))
        // It comes up while the link is made.
        forwarder = try SlirpProcess.start()
        defer {
            send(.kill, to: pid)
            awaitEnd(pid)
        }
        guard let answer = try ours.receive(within: .seconds(10)) else {
            throw KernelError(call: "hear from", subject: "the process in the namespaces", errno: .connectionReset)
        }
        guard answer.kind == "link", answer.fields.count == 3, answer.descriptors.count == 1 else {
            tell(answer.fields.first ?? "")
            return nil
        }
        return Link(
            device: answer.descriptors[0], checksum: answer.fields[0] == "true",
            tso: answer.fields[1] == "true", uso: answer.fields[2] == "true")
    }

    private func configureForwarder(_ link: Link) throws(KernelError) -> Channel {
        if forwarder == nil { forwarder = try SlirpProcess.start() }
        guard let ours = forwarder?.channel else { throw KernelError(call: "start", errno: .noChildProcess) }
        var configuration = SlirpConfiguration(
            layout: layout, mtu: options.mtu, forwards: PortSet([]),
            nameServers: ResolverFile(resolver.text() ?? "").servers,
            hostLoopback: options.disablesHostLoopback ? .unreachable : .all, checksumOffload: link.checksum,
            segmentationOffload: link.tso, datagramOffload: link.uso)
        configuration.answersNames = !options.disablesNames
        configuration.deniesMetadata = false
        configuration.hasLinkHeader = link.hasHeader
        configuration.outbound4 = try outboundAddress(options.outbound4, v4: true)
        configuration.outbound6 = try outboundAddress(options.outbound6, v4: false)
        let table = try makeMemoryFile("slirp4netns-flows", holding: [])
        // Nothing is asked of it here; one of the guest's namespace would keep that alive.
        let query = try SocketDiagnosis.open()
        try ours.send(configuration.message(tap: link.device, listeners: query.descriptor, table: table))
        while let message = try ours.receive(within: .seconds(5)) {
            switch SlirpReport(message) {
            case .ready?: return ours
            case .note(let text)?: tell(text)
            default: break
            }
        }
        throw KernelError(call: "start", subject: "the forwarder", errno: .noChildProcess)
    }

    private func outboundAddress(_ text: String?, v4: Bool) throws(KernelError) -> IPAddress? {
        guard let text else { return nil }
        if let address = IPAddress(text), address.isV4 == v4 { return address }
        if let address = InternetSocket.address(ofInterface: text, v4: v4) { return address }
        throw KernelError(
            call: v4 ? "use as outbound-addr" : "use as outbound-addr6", subject: text, errno: .addressNotAvailable)
    }

    private func enterSandbox() throws(KernelError) {
        if options.isSandboxed {
            // An ordinary user is one who may do this in the namespace that it is for.
            if CurrentProcess.effectiveUser != 0, let usersNamespace { try enterUserNamespace(usersNamespace) }
            try Sandbox.leaveFileSystem(allBut: ["/etc", "/run"])
            try Capabilities.drop(allBut: [.netBindService])
        }
        usersNamespace = nil
        if options.hasSeccomp {
            try CurrentProcess.forbidNewPrivileges()
            try Sandbox.forbidDangerousCalls()
        }
    }

    private func printBanner() {
        let mask = IPAddress(v4: ~0 << UInt32(32 - layout.subnet4.length))
        let base = layout.subnet4.address.v4
        var lines = ["Starting slirp", "* MTU:             \(options.mtu)"]
        lines.append("* Network:         \(layout.subnet4.address)")
        lines.append("* Netmask:         \(mask)")
        lines.append("* Gateway:         \(layout.gateway4)")
        lines.append("* DNS:             \(layout.nameServer4)")
        lines.append("* DHCP begin:      \(layout.leased4)")
        lines.append("* DHCP end:        \(IPAddress(v4: base | 30))")
        lines.append("* Recommended IP:  \(layout.guest4)")
        if let path = options.apiSocket { lines.append("* API Socket:      \(path)") }
        if let address = options.outbound4 { lines.append("* Outbound IPv4:    \(address)") }
        if let address = options.outbound6 { lines.append("* Outbound IPv6:    \(address)") }
        if let address = options.hardwareAddress {
            let text = address.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
            lines.append("* MAC address:     \(text)")
        }
        if !options.disablesHostLoopback {
            lines.append(
                "WARNING: 127.0.0.1:* on the host is accessible as \(layout.gateway4) "
                    + "(set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)")
        }
        writeLine(lines.joined(separator: "\n") + "\n", to: 1)
    }

    // MARK: the API

    /// As many as ask at the same time; whoever says nothing gives way to others.
    private static let clientLimit = 64

    private func acceptClient(_ poller: borrowing Poller) {
        guard let apiListener, let socket = LocalSocket.accept(apiListener.number) else { return }
        if clients.count >= Self.clientLimit {
            poller.remove(clients[0].socket.number)
            clients.removeFirst()
        }
        let token = Token.client | UInt64(UInt32(bitPattern: socket.number))
        guard (try? poller.add(socket.number, .readable, token: token)) != nil else { return }
        clients.append(APIClient(socket: socket))
    }

    private func serve(_ number: Int32, _ poller: borrowing Poller) {
        guard let index = clients.firstIndex(where: { $0.socket.number == number }) else { return }
        var buffer = [UInt8](repeating: 0, count: HostForwardAPI.requestLimit)
        var hasEnded = false
        switch Kernel.read(number, into: &buffer) {
        case .bytes(let count) where count > 0: clients[index].request += buffer[..<count]
        case .wouldBlock: return
        default: hasEnded = true
        }
        let request = clients[index].request
        let isWhole = ControlConnection.decode(JSONValue.self, request) != nil
        guard hasEnded || isWhole || request.count >= HostForwardAPI.requestLimit else { return }
        if hasEnded, request.isEmpty {
            poller.remove(number)
            clients.remove(at: index)
            return
        }
        let answer = api.answer(request, open: open, close: close)
        _ = LocalSocket.send(number, Array(answer.utf8))
        // What is left unread would take the answer from those who go on writing.
        for _ in 0..<64 {
            guard case .bytes(let count) = Kernel.read(number, into: &buffer), count > 0 else { break }
        }
        poller.remove(number)
        clients.remove(at: index)
    }

    private func open(_ entry: HostForwardAPI.Entry) -> Bool {
        guard let host = IPAddress(entry.hostAddress), let guest = IPAddress(entry.guestAddress), let forwarder else {
            return false
        }
        do {
            let outside = Endpoint(host, entry.hostPort)
            let isUDP = entry.proto == "udp"
            let socket = try isUDP ? InternetSocket.bind(.udp, outside) : InternetSocket.listen(outside)
            let command = SlirpCommand.addForward(
                id: UInt32(entry.id), isUDP: isUDP, guest: Endpoint(guest, entry.guestPort), origin: .requested,
                socket: socket)
            try forwarder.channel.send(command.message)
            return true
        } catch {
            tell("\(error)")
            return false
        }
    }

    private func close(_ id: Int) { try? forwarder?.channel.send(SlirpCommand.removeForward(id: UInt32(id)).message) }
}
