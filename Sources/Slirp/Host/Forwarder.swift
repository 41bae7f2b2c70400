internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// The forwarder's process: one thread, one epoll loop. It owns the tap's descriptor and every outside socket, turns
/// events into events of the pure parts (``TCPState``, ``Policy``, ``Reassembly``, the services), and their answers into
/// system calls.
///
/// One turn of the loop:
///
///     wait ─▶ outside events (connects, data, errors) ─▶ a batch of frames from the tap ─▶ one ACK per flow that owes one
///          ─▶ flows that still have something to send ─▶ timers
///
/// Superpackets: a read from the tap brings up to 64 KiB of one flow, a write delivers as much; the kernel segments and
/// computes checksums (virtio_net_hdr). A frame is parsed where it was read and its payload sent from there; a payload
/// for the workspace is peeked straight behind the headers of the frame that carries it.
///
/// Nothing is allocated for a frame of an established flow. Cold paths (DHCP, NDP, fragments, errors) are ordinary Swift.
struct Forwarder: ~Copyable {
    /// Room before a frame's transport payload for any header we write: virtio, Ethernet, IPv6 with a fragment header.
    static let frameOffset = VirtioHeader.length
    static let batch = 64
    /// Bytes that a turn moves either way before it looks at what else has happened, so that no connection waits long
    /// behind the bulk of others; and what one flow may have of it. A frame counts as some bytes more than it has.
    static let budget = 1 << 19, share = 1 << 18, frameCost = 2048
    /// Frames that the link's ring holds for one flow.
    let ringFrames: Int

    var configuration: SlirpConfiguration
    let policy: Policy
    var egress: Egress
    var denials = DenialLog()
    /// Connections to the name server, by their flows.
    var nameStreams: [Int: NameStream] = [:]
    /// The link's device or packet socket.
    let tap: Descriptor
    /// Where a packet socket's frames come; nil for a device.
    private var ring: PacketRing?
    private let hasRing: Bool
    let listeners: SocketDiagnosis
    /// Where the workspace would send packets; nil when nobody can tell.
    let routes: RouteQuery?
    var clientAddresses: ClientAddresses
    let report: Channel
    let poller: Poller
    /// The frame being read, and the frame being written.
    let incoming: Region, outgoing: Region
    /// Datagrams on their way out that may travel together.
    let staging: Region
    var stagedRun: DatagramRun?
    /// Where bytes go that must be skipped, on kernels without SO_PEEK_OFF for TCP.
    let scratch: Region
    let table: FlowTable
    var pool: ChunkPool
    var wheel: TimerWheel
    var reassembly = Reassembly()
    var limits: FlowLimits, clientLimits: FlowLimits
    var idleFlows = IdleFlows(), idleClients = IdleFlows(areClients: true)
    var acceptPause = AcceptPause()
    var now: MonotonicInstant
    /// Reads the time.
    private let clock: @Sendable () -> MonotonicInstant
    /// The workspace's hardware address, learned from its frames.
    var guestHardware = HardwareAddress.broadcast
    /// Flows that owe an ACK at the end of the batch, and flows that have more to send.
    var dirty: [Int] = [], ready: [Int] = []
    let hasPeekOffset: Bool
    let secret: UInt64
    var identification: UInt16 = 1
    var nameServers: NameServers
    var lookups: NameLookups
    /// By the number that whoever added them gave them.
    var forwards: [UInt32: InboundForward] = [:]
    /// The declared ports among them.
    var declaredPorts: Set<DeclaredPort> = []
    /// Connections from the container's loopback, by their flow.
    var splices: [Int: Splice] = [:]
    var insideSockets = InsideSockets()
    /// Whoever was at the other end of a link of messages has closed it.
    var hasLinkEnded = false
    /// What is left of another forwarder's connections; nil: there was none before this.
    var lost: LostConnections?
    /// Said once each.
    var notedPing = false
    var notedForwards: Set<UInt16> = []
    var nextListenerLook: MonotonicInstant
    private static let linkBudget = 1 << 19, leastWindow = 1 << 17
    private var senders = 1
    /// Turns in a row in which the link had frames.
    private var tapStreak = 0
    private var stalledInARow = 0
    private var busyPoll: BusyPoll
    private var movedBefore: UInt64 = 0
    private static let stallLimit = 10_000
    static let idleLookInterval = Duration.seconds(600)
    /// When flows without traffic are looked at.
    var nextIdleLook: MonotonicInstant

    enum Token {
        static let tap: UInt64 = 1 << 56
        static let report: UInt64 = 2 << 56
        static let flow: UInt64 = 3 << 56
        static let forward: UInt64 = 4 << 56
        /// The inside socket of a splice: the rest as a flow's.
        static let inside: UInt64 = 5 << 56

        static func flow(_ index: Int, generation: UInt32) -> UInt64 {
            flow | UInt64(generation) << 32 | UInt64(UInt32(truncatingIfNeeded: index))
        }
    }

    init(
        _ configuration: SlirpConfiguration, tap: Descriptor, listeners: SocketDiagnosis, routes: RouteQuery? = nil,
        table file: Descriptor, report: Channel, peeksWithOffset: Bool? = nil,
        clock: @escaping @Sendable () -> MonotonicInstant = { .now }
    ) throws(KernelError) {
        let now = clock()
        let secret = randomUInt64()
        let incoming = try Region(count: 1 << 18)
        let outgoing = try Region(count: 1 << 18)
        let scratch = try Region(count: 1 << 24)
        let staging = try Region(count: 1 << 17)
        let table = try FlowTable(capacity: configuration.flowCapacity, file: file, secret: secret)
        let pool = try ChunkPool(chunks: 1024)
        let ring: PacketRing? = configuration.isPacketLink ? try PacketRing(tap) : nil
        let poller = try Poller()
        try poller.add(tap.number, .readable, token: Token.tap)
        try poller.add(report.descriptor.number, .readable, token: Token.report)
        self.now = now
        self.clock = clock
        self.configuration = configuration
        nameServers = NameServers(configuration.nameServers)
        self.tap = tap
        hasRing = configuration.isPacketLink
        self.ring = ring
        ringFrames = hasRing ? PacketRing.capacity / 2 : 4096
        self.listeners = listeners
        self.routes = routes
        clientAddresses = ClientAddresses(at: now)
        self.report = report
        self.secret = secret
        self.incoming = incoming
        self.outgoing = outgoing
        self.scratch = scratch
        self.staging = staging
        self.table = table
        self.pool = pool
        self.poller = poller
        wheel = TimerWheel(at: now)
        busyPoll = BusyPoll(processors: configuration.processors)
        limits = FlowLimits(capacity: configuration.flowCapacity, descriptors: configuration.descriptorLimit)
        clientLimits = FlowLimits(clientsBeside: limits)
        lookups = NameLookups(limit: min(1024, limits.total / 4))
        nextListenerLook = now
        nextIdleLook = now + Self.idleLookInterval
        policy = Policy(
            layout: configuration.layout, hostLoopback: configuration.hostLoopback,
            answersNames: configuration.answersNames, deniesMetadata: configuration.deniesMetadata)
        egress = Egress(configuration.egress, searchDomains: configuration.searchDomains)
        hasPeekOffset = peeksWithOffset ?? Self.probePeekOffset()
        dirty.reserveCapacity(configuration.flowCapacity)
        ready.reserveCapacity(configuration.flowCapacity)
        listRules()
    }

    /// Runs until ring0 or the tap is gone.
    mutating func run() throws(KernelError) {
        while try turn(waiting: timeout()) {}
    }

    /// One turn of the loop. False when ring0 or the tap is gone.
    mutating func turn(waiting limit: Duration?) throws(KernelError) -> Bool {
        let count = try awaitEvents(limit)
        let before = table.counters.progress
        var tapIsReadable = false
        for index in 0..<count {
            let event = poller.event(index)
            switch event.token >> 56 {
            case 1:
                if event.readiness.contains(.failed) { return false }  // the workspace's network namespace is gone
                tapIsReadable = true
            case 2:
                switch report.receive() {
                case .message(let message): obey(SlirpCommand(message))
                case .nothingYet: break
                case .closed: return false  // ring0 is gone
                }
            case 3, 5: handleFlowEvent(event)
            default: handleForward(UInt32(truncatingIfNeeded: event.token), event.readiness)
            }
        }
        if tapIsReadable {
            tapStreak += 1
            readFrames()
            sendRun()
        } else {
            tapStreak = 0
        }
        if hasLinkEnded { return false }
        report.settle(poller, token: Token.report)
        watch(hadEvents: count > 0, before: before)
        settleDirty()
        runReady()
        settleDirty()
        while let index = wheel.next(at: now, in: table) { handleTimer(index) }
        if nextIdleLook <= now { lookAfterIdleFlows() }
        if let due = acceptPause.endsAt, due <= now { acceptAgain() }
        if lost?.isDue(at: now) == true { resetLost() }
        if followsListeners, nextListenerLook <= now {
            nextListenerLook = now + .milliseconds(100)
            followListeners()
        }
        return true
    }

    /// Waits for events: looks for them first where they come soon.
    private mutating func awaitEvents(_ limit: Duration?) throws(KernelError) -> Int {
        let begin = clock()
        let moved = table.counters.bytesIn &+ table.counters.bytesOut
        defer { movedBefore = moved }
        if limit == .zero {
            now = begin
            return try poller.wait(limit)
        }
        let end = begin.nanoseconds + busyPoll.limit
        var count = 0
        now = begin
        while now.nanoseconds < end {
            count = try poller.wait(.zero)
            now = clock()
            if count > 0 { break }
        }
        if count == 0 {
            count = try poller.wait(limit)
            now = clock()
        }
        busyPoll.waited((now - begin).nanoseconds, afterBytes: moved &- movedBefore)
        return count
    }

    /// The loop's watchdog: an event that comes again and again and leads to nothing would cost a processor in silence.
    private mutating func watch(hadEvents: Bool, before: UInt64) {
        guard hadEvents, table.counters.progress == before else {
            stalledInARow = 0
            return
        }
        table.counters.stalledTurns += 1
        stalledInARow += 1
        if stalledInARow == Self.stallLimit { note("an event repeats without progress: please report it") }
    }

    private mutating func obey(_ command: SlirpCommand?) {
        switch command {
        case .nameServers(let servers)?: nameServers.replace(with: servers)
        case .searchDomains(let domains)?: egress.searchDomains = domains
        case .forwards(let ports)?:
            configuration.forwards = ports
            nextListenerLook = now
        case .addForward(let id, let isUDP, let guest, let origin, let socket)?:
            let outside = InternetSocket.localEndpoint(socket.number) ?? Endpoint(.any4, 0)
            addForward(
                id, InboundForward(guest: guest, isUDP: isUDP, origin: origin, outside: outside, socket: socket))
        case .failedForward(let failure)?: showFailure(failure)
        case .removeForward(let id)?: removeForward(id)
        case .sockets(let sockets)?: takeSockets(sockets)
        case nil: break
        }
    }

    private func timeout() -> Duration? {
        if !ready.isEmpty { return .zero }
        var next = wheel.nextDeadline()
        if table.count > 0 { next = min(next ?? nextIdleLook, nextIdleLook) }
        if followsListeners { next = min(next ?? nextListenerLook, nextListenerLook) }
        if let due = acceptPause.endsAt { next = min(next ?? due, due) }
        if let due = lost?.nextAt { next = min(next ?? due, due) }
        return next.map { max(.zero, $0 - clock()) }
    }

    private mutating func handleFlowEvent(_ event: ReadyEvent) {
        let index = Int(UInt32(truncatingIfNeeded: event.token))
        guard index < table.highWater, table[index].kind != .free,
            table[index].generation == UInt32(truncatingIfNeeded: event.token >> 32) & 0xff_ffff
        else { return }
        switch table[index].kind {
        case .tcp: handleSocketEvent(index, event.readiness)
        case .udp, .ping, .lookup: handleDatagramEvent(index, event.readiness)
        case .spliced: handleSplice(index, event.readiness, isInside: event.token >> 56 == 5)
        case .free, .inboundUDP: break
        }
    }

    private mutating func handleTimer(_ index: Int) {
        switch table[index].kind {
        case .tcp: handleTCPTimer(index)
        case .udp, .ping, .inboundUDP, .lookup: handleDatagramTimer(index)
        case .free, .spliced: break
        }
    }

    // MARK: the tap

    private mutating func readFrames() {
        var budget = Self.budget
        while budget > 0 {
            // Without a link header its place stays zero, which is a header that promises nothing.
            let skipped = configuration.hasLinkHeader ? 0 : VirtioHeader.length
            let outcome = readFrame(skipping: skipped)
            switch outcome {
            case .bytes(0):
                hasLinkEnded = true
                return
            case .bytes(let count):
                table.counters.framesIn += 1
                table.counters.bytesIn += UInt64(count)
                budget -= count + Self.frameCost
                handleFrame(count + skipped)
                // A small frame in a quiet moment has no other behind it: the next turn would find that one at once.
                if tapStreak < 2, count < 512 { return }
            case .wouldBlock, .failed: return
            }
        }
    }

    /// What a flow may have under way on the link: together they keep it busy, and leave no queue that others wait behind.
    /// What the outside needs under way is in its sockets' buffers.
    var linkWindow: Int { max(Self.leastWindow, Self.linkBudget / max(1, senders)) }

    /// How many flows send in bulk, by this batch or, falling slowly, by those before.
    private mutating func countSenders() {
        var found = 0
        for index in dirty where table[index].kind == .tcp && table[index].tcp.segmentAverage > 8192 { found += 1 }
        senders = max(found, senders - 1)
    }

    /// Brings the next frame into the incoming block.
    @inline(__always)
    private mutating func readFrame(skipping skipped: Int) -> IOOutcome {
        guard hasRing else { return incoming.read(tap.number, at: skipped, count: 70_000 - skipped) }
        guard let count = ring?.take(into: incoming) else { return .wouldBlock }
        return .bytes(count)
    }

    /// Writes the frame whose virtio header lies at `start` of the outgoing block; what the link refuses is lost, as on a wire.
    @inline(__always)
    mutating func writeFrame(from start: Int = 0, count: Int) {
        let skipped = configuration.hasLinkHeader ? 0 : VirtioHeader.length
        switch outgoing.write(tap.number, at: start + skipped, count: count - skipped) {
        case .bytes:
            table.counters.framesOut += 1
            table.counters.bytesOut += UInt64(count)
        case .wouldBlock, .failed: table.counters.linkRefused += 1
        }
    }

    /// Flows that have something to send, in turn, each for its share, until the turn's budget is spent: what is left comes
    /// first in the next turn, after whatever has happened meanwhile.
    private mutating func runReady() {
        guard !ready.isEmpty else { return }
        var budget = Self.budget
        var position = 0
        let waiting = ready.count
        while position < waiting, budget > 0 {
            let index = ready[position]
            position += 1
            table[index].isReady = false
            switch table[index].kind {
            case .tcp: transmit(index, budget: &budget)
            case .spliced: runSplice(index, budget: &budget)
            default: break
            }
        }
        ready.removeSubrange(0..<position)
    }

    mutating func markReady(_ index: Int) {
        guard !table[index].isReady else { return }
        table[index].isReady = true
        ready.append(index)
    }

    @inline(__always)
    mutating func markDirty(_ index: Int) {
        guard !table[index].isDirty else { return }
        table[index].isDirty = true
        dirty.append(index)
    }

    /// One ACK, at most, for each flow that the batch touched.
    private mutating func settleDirty() {
        guard !dirty.isEmpty else { return }
        countSenders()
        for position in 0..<dirty.count {
            let index = dirty[position]
            table[index].isDirty = false
            if table[index].kind == .tcp { settle(index) }
        }
        dirty.removeAll(keepingCapacity: true)
    }

    func note(_ text: String) { try? report.send(SlirpReport.note(text).message) }
}
