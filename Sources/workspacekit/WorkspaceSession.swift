internal import Config
internal import Control
internal import Kernel
internal import Ring
internal import Slirp
internal import SystemPackage

/// What the forwarder is to do, before the link's abilities are known.
struct ForwarderPlan {
    var layout: NetworkLayout
    var mtu: Int
    var ports: DeclaredPorts
    /// The ports that the configuration declared when the workspace started.
    var portsAtStart: PortSet
    var nameServers: [NameServer]
    var loopbackExceptions: [LoopbackException]
    /// Ports outside that always lead inside.
    var forwards: [ForwardSpec]
    /// Where the workspace may connect to.
    var egress: EgressPolicy
    var searchDomains: [String]

    /// The declared ports that may be open outside. The workspace writes its configuration: a reload adds no port below
    /// 1024, where the container's own servers are.
    var boundedPorts: PortSet {
        let guarded = PortSet([0...1023], without: portsAtStart.ranges)
        return PortSet(PortSet(ports).ranges, without: guarded.ranges)
    }
}

/// Something had to be given up that was required.
struct Degradation: Error, CustomStringConvertible {
    private let reason: String
    private let isolation: Isolation

    init(because failure: StageFailure? = nil, isolation: Isolation) {
        reason = failure.map { "\($0)" } ?? "root inside would be this machine's root"
        self.isolation = isolation
    }

    var description: String { "\(reason): this is \(isolation.rawValue) at most, and --require asks for more" }
}

/// ring0's event loop: from the start of the rings to the end of the last process.
final class WorkspaceSession {
    private var ringPlan: RingPlan
    /// For a workspace's root who is another user than ring0's.
    private let stateHandover: StateHandover?
    private let grace: Duration
    /// What may be given up at most.
    private let leastIsolation: Isolation
    private let startedAt: MonotonicInstant
    private let isQuiet: Bool
    private var forwarder: ForwarderPlan?
    /// What the workspace's name servers and files follow; nil without a network of its own.
    private let containerFiles: ContainerFiles?
    private var rings: Ring0?
    /// The forwarder, the channel to it, and its flow table, which is readable from here too.
    private var forwarderProcess: (pid: Int32, channel: Channel, table: Descriptor)?
    /// A forwarder that has no link yet.
    private var startedForwarder: (pid: Int32, channel: Channel)?
    private var fixedForwards = FixedForwards()
    private let errors = StandardOutput(2, name: "standard error", limit: 256 << 10)
    /// To the supervisor.
    private var supervisorChannel: Channel?
    /// The table of a forwarder that is gone, until the next one has it.
    private var previousTable: Descriptor?
    private var forwarderFailures = 0, forwarderRestarts = 0
    private var nextForwarderStart: MonotonicInstant?
    private var killAt: MonotonicInstant?
    /// Started by nohup(1): a closed terminal has no effect.
    private let ignoresHangup = isIgnored(.hangup)
    private var stopRequestedAt: MonotonicInstant?
    private var stages: [(name: String, at: MonotonicInstant)] = []
    private var hasStarted = false

    init(
        ringPlan: RingPlan, stateHandover: StateHandover?, grace: Duration, startedAt: MonotonicInstant, isQuiet: Bool,
        forwarder: ForwarderPlan?,
        containerFiles: ContainerFiles?, leastIsolation: Isolation = .superviseOnly
    ) {
        self.leastIsolation = leastIsolation
        self.ringPlan = ringPlan
        self.stateHandover = stateHandover
        self.grace = grace
        self.startedAt = startedAt
        self.isQuiet = isQuiet
        self.forwarder = forwarder
        self.containerFiles = containerFiles
    }

    private enum Token {
        static let signals: UInt64 = 0, report: UInt64 = 1, rings: UInt64 = 2, forwarder: UInt64 = 3,
            resolver: UInt64 = 4, errors: UInt64 = 5
    }

    /// Runs the workspace; its exit code.
    func run(
        supervisorState: (RingPlan) throws -> Descriptor, reportReading: Channel, reportWriting: Channel
    ) throws -> Int32 {
        let terminalGroup = CurrentProcess.processGroup
        let signals = try SignalReader([.child, .terminate, .interrupt, .hangup, .quit, .user1, .user2])
        let poller = try Poller()
        try poller.add(signals.number, .readable, token: Token.signals)
        try poller.add(reportReading.descriptor.number, .readable, token: Token.report)
        supervisorChannel = reportReading
        defer { errors.finish(within: .milliseconds(500)) }
        if let watch = containerFiles?.descriptor { try poller.add(watch.number, .readable, token: Token.resolver) }
        stages.append(("configuration", .now))
        let rings = try bringUp(supervisorState, reportWriting.descriptor)
        self.rings = rings
        try dropPrivileges()
        try poller.add(rings.channel.descriptor.number, .readable, token: Token.rings)
        if let forwarderProcess {
            try poller.add(forwarderProcess.channel.descriptor.number, .readable, token: Token.forwarder)
        }
        defer {
            if Terminal.isTerminal(0) { Terminal.setForeground(0, group: terminalGroup) }
            if let forwarderProcess {
                send(.kill, to: forwarderProcess.pid)
                for _ in 0..<1000 {
                    if case .ended(forwarderProcess.pid, _) = reap(forwarderProcess.pid) { break }
                    if case .noChildren = reap(forwarderProcess.pid) { break }
                    pause(.milliseconds(1))
                }
            }
        }
        while true {
            settleOutput(rings, poller)
            let count = try poller.wait(timeout())
            for index in 0..<count {
                switch poller.event(index).token {
                case Token.signals: while let (signal, _) = signals.next() { relay(signal, rings) }
                case Token.report: takeReport(reportReading, poller)
                case Token.rings: takeNote(rings, poller)
                case Token.errors: break  // written at the end of each turn
                case Token.resolver: containerFiles?.take(at: .now)
                default: takeForwarderReport(poller)
                }
            }
            while case .ended(let pid, let status) = reap() {
                if pid == rings.pid {
                    takeNote(rings, poller)
                    if case .signalled(.kill, _) = status, killAt == nil {
                        say("ring1 was killed: the workspace is gone with it")
                    } else if !isQuiet {
                        say("stopped\(stopRequestedAt.map { " in \(milliseconds(.now - $0))" } ?? "")")
                    }
                    return Int32(status.code)
                }
                if pid == forwarderProcess?.pid { forwarderEnded(status, poller) }
            }
            doWhatIsDue(rings, poller)
        }
    }

    // MARK: bringing up

    private func bringUp(
        _ supervisorState: (RingPlan) throws -> Descriptor, _ report: Descriptor
    ) throws -> Ring0 {
        while true {
            do {
                if ringPlan.isolation > leastIsolation { throw Degradation(isolation: ringPlan.isolation) }
                let rings = try bringUpOnce(supervisorState(ringPlan), report)
                if ringPlan.isolation == .masked { say(Self.maskedText) }
                return rings
            } catch let failure as StageFailure {
                guard let next = failure.wayOut, next > ringPlan.isolation else { throw failure }
                stopForwarder()
                if next > leastIsolation { throw Degradation(because: failure, isolation: next) }
                try degrade(to: next, because: failure)
            }
        }
    }

    /// What could not be had is given up, aloud.
    private func degrade(to isolation: Isolation, because failure: StageFailure) throws {
        ringPlan.isolation = isolation
        if isolation == .superviseOnly { ringPlan.masksMachine = false }
        guard isolation == .superviseOnly else {
            return say("\(failure): the workspace shares the container's process numbers instead (shared-pid)")
        }
        // Whoever must be kept in is not let out because the walls could not be built.
        let filesystem = ringPlan.filesystem
        let isKeptIn =
            ringPlan.network == .none || forwarder?.egress.isOpen == false || filesystem.root != .shared
            || !filesystem.hidden.isEmpty
        if isKeptIn { throw failure }
        say("\(failure): tasks and services are only supervised, with nothing of their own (supervise-only)")
        ringPlan.network = .host
        ringPlan.link = nil
        forwarder = nil
    }

    private static let maskedText =
        "root inside is this machine's root: /proc/sys, /sys and cgroups are read-only, and no containers run inside (masked). "
        + "\"workspacekit doctor\" says what would help"

    private func bringUpOnce(_ configuration: Descriptor, _ report: Descriptor) throws -> Ring0 {
        let note = { [self] (text: String) in say("ring1: \(text)") }
        // It comes up while ring1 makes the link.
        if forwarder != nil { startedForwarder = try SlirpProcess.start() }
        defer {
            if let startedForwarder { send(.kill, to: startedForwarder.pid) }
            startedForwarder = nil
        }
        let rings = try Ring0.start(ringPlan, configuration: configuration, report: report, note: note)
        stages.append(("ring1", .now))
        self.rings = rings
        switch rings.idMap?.method {
        case .single?:
            let cure =
                CurrentProcess.effectiveUser == 0
                ? "add CAP_SETUID and CAP_SETGID"
                : "install uidmap and add a range for this user to /etc/subuid and /etc/subgid"
            say("only one user id is mapped, so apt, sudo and dockerd do not work inside: \(cure)")
        case .direct? where rings.idMap?.users.first.map({ $0.inside == 0 && $0.outside != 0 }) == true:
            say(
                "root inside is user \(rings.idMap?.users.first?.outside ?? 0) outside: to keep the container's root, "
                    + "add CAP_SETFCAP")
            if let group = rings.idMap?.groups.first?.outside { try stateHandover?.give(toGroup: group) }
        case .direct?, .helper?, nil: break
        }
        // The forwarder starts while ring2 mounts; both must be there before anything of the user's runs.
        if let forwarder {
            try startForwarder(rings)
            try awaitForwarder()
            forward(forwarder.forwards)
            stages.append(("forwarder", .now))
        }
        try rings.awaitReady(note: note)
        stages.append(("ring2", .now))
        try rings.go()
        return rings
    }

    private func startForwarder(_ rings: Ring0) throws(KernelError) {
        guard let forwarder, let link = rings.link else { return }
        if startedForwarder == nil { startedForwarder = try SlirpProcess.start() }
        guard let (pid, ours) = startedForwarder else { return }
        startedForwarder = nil
        var configuration = SlirpConfiguration(
            layout: forwarder.layout, mtu: forwarder.mtu, forwards: forwarder.boundedPorts,
            nameServers: forwarder.nameServers,
            hostLoopback: .ports(Set(forwarder.loopbackExceptions)), checksumOffload: link.checksum,
            segmentationOffload: link.tso, datagramOffload: link.uso)
        configuration.isPacketLink = link.isPacketLink
        configuration.loopbackForwards = forwarder.portsAtStart
        configuration.splicesLoopback = true
        configuration.egress = forwarder.egress
        configuration.searchDomains = forwarder.searchDomains
        let table = try makeMemoryFile("workspacekit-flows", holding: [])
        if let previousTable { try ours.send(SlirpConfiguration.message(previousTable: previousTable)) }
        try ours.send(
            configuration.message(tap: link.tap, listeners: link.listeners, table: table, routes: link.routes))
        try fixedForwards.replay(to: ours)
        forwarderProcess = (pid, ours, table)
    }

    /// Gives the supervisor the flow table to read from. The forwarder is ready, so that it has sealed the table:
    /// root inside can open the descriptor for writing, and changes nothing with it.
    private func shareFlowTable() {
        guard let table = forwarderProcess?.table,
            let readable = try? Files.open("/proc/self/fd/\(table.number)", flags: 0)
        else { return }
        try? supervisorChannel?.send(ChannelMessage("flows", [], descriptors: [readable]))
    }

    /// Gives up what ring0 needs no more once the rings are up. What stays: signals for ring1 where its user is another
    /// (CAP_KILL), low ports of forwards that are added later, and mapping its own id for the next forwarder.
    private func dropPrivileges() throws(KernelError) {
        try Capabilities.drop(allBut: [.kill, .netBindService, .setfcap])
        try CurrentProcess.forbidNewPrivileges()
        try Sandbox.forbidReachingCalls()
    }

    private func awaitForwarder() throws {
        guard let channel = forwarderProcess?.channel else { return }
        while let message = try channel.receive(within: .seconds(5)) {
            switch SlirpReport(message) {
            case .ready?: return shareFlowTable()
            case .note(let text)?: say("forwarder: \(text)")
            case .denied(let text)?: tellDenial(text)
            default: break
            }
        }
        throw KernelError(call: "start", subject: "the forwarder", errno: .noChildProcess)
    }

    private func stopForwarder() {
        if let forwarderProcess { send(.kill, to: forwarderProcess.pid) }
        forwarderProcess = nil
    }

    // MARK: events

    /// At the end of a turn: what is to be written is written, and what could not be is waited for.
    private func settleOutput(_ rings: Ring0, _ poller: borrowing Poller) {
        errors.settle(poller, token: Token.errors)
        supervisorChannel?.settle(poller, token: Token.report)
        rings.channel.settle(poller, token: Token.rings)
        forwarderProcess?.channel.settle(poller, token: Token.forwarder)
    }

    /// Prints a line of ring0's own. A reader that has paused is not waited for.
    private func say(_ text: String) {
        errors.append(noticeText(text))
        errors.flush()
    }

    private func timeout() -> Duration? {
        let now = MonotonicInstant.now
        return [killAt, nextForwarderStart, containerFiles?.dueAt, fixedForwards.nextLook].compactMap { $0 }.min().map {
            max(.zero, $0 - now)
        }
    }

    private func relay(_ signal: Signal, _ rings: Ring0) {
        switch signal {
        case .child: break
        case .hangup where ignoresHangup: break
        case .terminate, .interrupt, .quit, .hangup:
            // A terminal that is closed says so more than once: the kernel does, and the shell.
            if killAt != nil, signal == .interrupt || signal == .quit {
                say("stopped at once")
                send(.kill, to: rings.pid)
                return
            }
            if killAt == nil {
                stopRequestedAt = .now
                killAt = .now + grace
                if !isQuiet { say("stopping (again to stop at once)") }
            }
            send(.terminate, to: rings.pid)
        default: send(signal, to: rings.pid)
        }
    }

    private func takeReport(_ channel: Channel, _ poller: borrowing Poller) {
        let message: ChannelMessage
        switch channel.receive() {
        case .message(let received): message = received
        case .nothingYet: return
        case .closed: return poller.remove(channel.descriptor.number)
        }
        if message.kind == "forwards" { return forward(message.fields.compactMap { ForwardSpec($0) }) }
        if message.kind == "client", let handle = message.descriptors.first {
            // The supervisor is below this user namespace, and cannot look into it.
            let answer = message.fields.prefix(2) + [Kinship(of: handle).rawValue]
            try? channel.send(ChannelMessage("client", Array(answer)))
            return
        }
        if message.kind == "ports" { return declare(DeclaredPorts(fields: message.fields)) }
        defer { CurrentProcess.releaseCode() }
        // It comes from inside: only the first one counts.
        guard message.kind == "started", !hasStarted, let nanoseconds = message.fields.first.flatMap({ Int64($0) })
        else { return }
        hasStarted = true
        stages.append(("first task", MonotonicInstant(nanoseconds: nanoseconds)))
        var before = startedAt
        var parts: [String] = []
        var fields: [String] = []
        for (name, at) in stages {
            parts.append("\(name) \(milliseconds(at - before))")
            fields += [name, "\((at - before).nanoseconds)"]
            before = at
        }
        try? channel.send(ChannelMessage("stages", fields))
        if isQuiet { return }
        say("up in \(milliseconds(before - startedAt)) (\(parts.joined(separator: ", ")))")
    }

    private func milliseconds(_ duration: Duration) -> String {
        let tenths = max(0, duration.nanoseconds / 100_000)
        return "\(tenths / 10).\(tenths % 10) ms"
    }

    private func takeNote(_ rings: Ring0, _ poller: borrowing Poller) {
        for _ in 0..<64 {
            switch rings.nextNews() {
            case .news(.note(let text)): say(text)
            // They come from inside: only what the forwarder can use without waiting is handed on.
            case .news(.sockets(let sockets)):
                let usable = sockets.filter { InternetSocket.isUnconnectedStream($0) }
                try? forwarderProcess?.channel.send(SlirpCommand.sockets(usable).message)
            case .nothingYet: return
            case .closed: return poller.remove(rings.channel.descriptor.number)
            }
        }
    }

    private func takeForwarderReport(_ poller: borrowing Poller) {
        guard let forwarder, let channel = forwarderProcess?.channel else { return }
        let message: ChannelMessage
        switch channel.receive() {
        case .message(let received): message = received
        case .nothingYet: return
        case .closed: return poller.remove(channel.descriptor.number)
        }
        switch SlirpReport(message) {
        case .opened(let port)?: if !isQuiet { say(opened(port, forwarder.ports)) }
        case .closed(let port)?:
            if !isQuiet {
                say("port \(port.port)\(port.isUDP ? "/udp" : "") is closed: nothing listens there any more")
            }
        // One that does not take what it asked for gets no more.
        case .socketsWanted?: if !channel.hasBacklog { rings?.askForSockets() }
        case .note(let text)?: say("forwarder: \(text)")
        case .denied(let text)?: tellDenial(text)
        case .ready?:
            forwarderFailures = 0
            previousTable = nil
            shareFlowTable()
        case nil: break
        }
    }

    private func opened(_ port: ForwardedPort, _ ports: DeclaredPorts) -> String {
        let name = ports.name(of: port.port).map { " (\($0))" } ?? ""
        if port.isUDP { return "port \(port.port)/udp\(name) is forwarded: \(outsideAddress()):\(port.port)" }
        let scheme = ports.scheme(of: port.port).map { $0 + "://" } ?? ""
        let place = "\(scheme)\(port.isLocal ? "127.0.0.1" : outsideAddress()):\(port.port)"
        let why = port.isLocal ? ", from this machine only, as its server listens on the loopback only" : ""
        return "port \(port.port)\(name) is forwarded: \(place)\(why)"
    }

    /// The configuration declares these ports now.
    private func declare(_ ports: DeclaredPorts) {
        guard forwarder?.ports != ports else { return }
        forwarder?.ports = ports
        guard let bounded = forwarder?.boundedPorts else { return }
        for range in PortSet(PortSet(ports).ranges, without: bounded.ranges).ranges {
            let text = range.count == 1 ? "\(range.lowerBound)" : "\(range.lowerBound)-\(range.upperBound)"
            say(
                "port \(text) is not forwarded: a reload opens ports below 1024 only if the configuration at the start "
                    + "named them. hint: restart the workspace")
        }
        try? forwarderProcess?.channel.send(SlirpCommand.forwards(bounded).message)
    }

    /// One line for each denied flow, also among the workspace's events.
    private func tellDenial(_ text: String) {
        say("denied \(text)")
        try? supervisorChannel?.send(ChannelMessage("denied", [text]))
    }

    /// The configuration wants these forwards now.
    private func forward(_ specs: [ForwardSpec]) {
        guard forwarder != nil else { return }
        self.forwarder?.forwards = specs
        for note in fixedForwards.set(specs, forwarderProcess?.channel, at: .now) { say(note) }
    }

    /// The policy depends on the name servers, and the workspace's root may be able to write the container's resolv.conf.
    private var obeysNames: Bool {
        let isOpen = ringPlan.filesystem.root == .shared || !ringPlan.filesystem.writable.isEmpty
        return isOpen && forwarder?.egress.isOpen == false
    }

    /// Passes on what has become of the container's files.
    private func followFiles(_ rings: Ring0, at now: MonotonicInstant) {
        guard let containerFiles, forwarder != nil,
            containerFiles.look(at: now, ids: rings.idMap, obeysNames: obeysNames, note: say)
        else { return }
        rings.tell(files: containerFiles.texts)
        if forwarder?.nameServers != containerFiles.servers {
            forwarder?.nameServers = containerFiles.servers
            try? forwarderProcess?.channel.send(SlirpCommand.nameServers(containerFiles.servers).message)
        }
        if forwarder?.searchDomains != containerFiles.searchDomains {
            forwarder?.searchDomains = containerFiles.searchDomains
            try? forwarderProcess?.channel.send(SlirpCommand.searchDomains(containerFiles.searchDomains).message)
        }
    }

    /// The address at which others reach this machine: the one it would use itself. Nothing is sent.
    private func outsideAddress() -> String {
        guard case .success(let socket) = InternetSocket.make(.udp, v4: true) else { return "127.0.0.1" }
        defer { InternetSocket.close(socket) }
        guard InternetSocket.connect(socket, to: Endpoint(IPAddress(v4: 0xc000_0201), 9)) == nil,
            let local = InternetSocket.localEndpoint(socket)
        else { return "127.0.0.1" }
        return local.address.description
    }

    private func forwarderEnded(_ status: ExitStatus, _ poller: borrowing Poller) {
        guard let process = forwarderProcess else { return }
        takeForwarderReport(poller)
        poller.remove(process.channel.descriptor.number)
        forwarderProcess = nil
        guard killAt == nil else { return }
        // When the network namespace goes, the forwarder goes before the news of ring1's end arrives.
        if status.isSuccess { return }
        forwarderFailures += 1
        forwarderRestarts += 1
        nextForwarderStart = .now + forwarderDelay()
        // One that ended before it was ready had no connections, and has not reset those before.
        previousTable = previousTable ?? process.table
        say("the forwarder ended (\(status)): it is started again, open connections are reset")
        try? supervisorChannel?.send(ChannelMessage("forwarder ended", ["\(forwarderRestarts)", "\(status)"]))
    }

    /// Starts another forwarder. Where that fails (no more processes, descriptors or memory), the workspace goes on without
    /// a network until it succeeds.
    private func restartForwarder(_ rings: Ring0, _ poller: borrowing Poller) {
        do {
            try startForwarder(rings)
            if let forwarderProcess {
                try poller.add(forwarderProcess.channel.descriptor.number, .readable, token: Token.forwarder)
            }
        } catch {
            stopForwarder()
            forwarderFailures += 1
            let delay = forwarderDelay()
            nextForwarderStart = .now + delay
            say("\(error): there is no network, the forwarder is started again in \(milliseconds(delay))")
        }
    }

    private func forwarderDelay() -> Duration {
        .milliseconds(forwarderFailures == 1 ? 0 : min(50 << min(forwarderFailures, 7), 5000))
    }

    private func doWhatIsDue(_ rings: Ring0, _ poller: borrowing Poller) {
        let now = MonotonicInstant.now
        followFiles(rings, at: now)
        if let due = nextForwarderStart, due <= now, killAt == nil {
            nextForwarderStart = nil
            restartForwarder(rings, poller)
        }
        if let due = fixedForwards.nextLook, due <= now {
            for note in fixedForwards.look(forwarderProcess?.channel, at: now) { say(note) }
        }
        if let due = killAt, due <= now {
            say("the workspace did not stop within \(milliseconds(grace)): killed")
            send(.kill, to: rings.pid)
            killAt = now + .seconds(1)
        }
    }
}

extension PortSet {
    /// The ports to forward.
    init(_ declared: DeclaredPorts) {
        self = declared.layers.reduce(PortSet([])) { PortSet($0.ranges + $1.shown, without: $1.hidden) }
    }
}
