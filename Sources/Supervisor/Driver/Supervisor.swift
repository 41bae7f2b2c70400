internal import Config
internal import Control
internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// The driver of ``Engine``: it turns signals, output, control requests and time into the engine's events, and the
/// engine's actions into processes and signals. It decides nothing. One thread, one epoll loop; a child of ring2, and
/// subreaper, so that every orphan of a task comes here first.
final class Supervisor {
    private(set) var plan: SupervisorPlan
    /// What programs of the workspace enter; empty: they run where this process does.
    let namespaces: [Int32]
    /// What outlives this process: state, and descriptors.
    let saved: SavedState, keeper: Keeper
    var units: [PlannedUnit]
    let state: StateDirectory
    let console: Console
    let events: EventLog
    /// It was told that the workspace stops.
    var isStopAnnounced = false
    let report: Channel
    var engine: Engine
    var logs: [UnitLog]
    /// The reading end of each unit's output, while it has one.
    let outputs: UnitOutputs
    let outputBuffer = ReadBuffer(), openLogs = OpenLogs()
    let listener: Descriptor
    let poller: Poller
    private let signals: SignalReader
    let clients: ControlClients
    /// Where scrapers connect, and those that are being served.
    let metricsListener: Descriptor?
    var exchanges: [HTTPExchange] = []
    /// How long each stage of the start took: names and nanoseconds in turn.
    var stages: [String] = []
    /// How often a forwarder ended unasked, and where that is saved.
    var forwarderEnds: (count: Int, job: Int?) = (0, nil)
    /// The forwarder's table of flows, read only.
    var flowTable: Descriptor?
    /// Who looks at the terminal of which unit.
    var viewers: [Viewer] = []
    /// Programs run by `exec`, by pid.
    var executions: [Int32: Execution] = [:]
    private var exitCode: UInt8?
    private var stalls = StallDetector()
    private var upkeep: StateUpkeep
    var hasReported = false
    var planner: UnitPlanner
    var reading: Reading
    /// What the rings and the forwarder were made with, as far as this supervisor knows.
    let made: WorkspaceConfiguration
    private var watch: ConfigurationWatch
    /// How each unit that is yet to say it says that it is ready.
    var readiness: [Int: ReadinessChannel] = [:]
    /// What units said of themselves (STATUS= of sd_notify(3)).
    var statusTexts: [Int: String] = [:]
    /// What runs before units are asked to end, by pid.
    var preStops: [Int32: PreStop] = [:]
    /// What units said their main process is to be (MAINPID=).
    var mainProcesses: [Int: Int32] = [:]
    /// Healthchecks under way, by pid.
    var probes: [Int32: RunningProbe] = [:]
    /// The sockets of socket-activated units.
    var listeners: [Int: [(spec: ListenerSpec, socket: Descriptor)]] = [:]
    /// Units whose sockets are watched for a first connection.
    var watchedListeners: Set<Int> = []
    /// The units' cgroups, and how often the kernel had killed for want of memory when each was started.
    let cgroups = CGroups()
    var killsBefore: [Int: OutOfMemoryKills] = [:]
    var saidOfLimits: Set<String> = []
    var traffic = UnitTraffic()
    /// How long units ran that have ended, and why tasks wait: for the summary of a prebuild.
    var durations: [Int: Duration] = [:], waitReasons: [Int: String] = [:]
    /// Points that tasks have reached (`gp sync-done`).
    var syncs: Set<String> = []
    /// Who waits for something to happen.
    var waiters: [Waiter] = []
    /// Process groups that may be empty.
    var groupsToLookFor: [(id: Int, group: Int32)] = []
    /// The files' content when they were read last, in order or not: what was said once is not said again.
    var lastSources: [Source]

    enum Token {
        static let signals: UInt64 = 1 << 32
        static let listener: UInt64 = 2 << 32
        static let connection: UInt64 = 3 << 32
        static let outputs: UInt64 = 4 << 32
        static let configuration: UInt64 = 5 << 32
        static let readiness: UInt64 = 6 << 32
        static let listeners: UInt64 = 7 << 32
        static let keeper: UInt64 = 8 << 32
        static let report: UInt64 = 9 << 32
        static let metrics: UInt64 = 10 << 32
        static let scraper: UInt64 = 11 << 32
        static let console: UInt64 = 12 << 32
        static let probe: UInt64 = 13 << 32
    }

    private let kept: [Keeper.Key: Descriptor]
    /// The workspace's own /etc/resolv.conf.
    var resolver: ResolverCopy? { ResolverCopy(kept) }
    private let isKnown: [Bool]
    /// Units whose state the supervisor before left, and that could not be read.
    private let lost: [Int]
    private let takesOver: Bool

    init(
        _ saved: SavedState, _ plan: SupervisorPlan, namespaces: [Int32], keeper: Keeper, report: Channel
    ) throws(KernelError) {
        self.plan = plan
        self.namespaces = namespaces
        self.saved = saved
        self.keeper = keeper
        self.report = report
        signals = try SignalReader([.child, .terminate, .interrupt, .hangup, .quit, .user1, .user2, .pipe])
        kept = try keeper.takeKept { message in
            if case .ended(let pid, let status) = message {
                _ = saved.add(["ended", "\(pid)", Ending.exited(status).text])
            }
        }
        state = StateDirectory(plan.stateDirectory)
        console = Console(output: 1, errors: 2, isQuiet: plan.isQuiet)
        outputs = try UnitOutputs()
        clients = ControlClients(descriptors: CurrentProcess.raiseOpenFilesLimit())
        reading = Reading(plan.sources)
        made = reading.configuration
        lastSources = plan.sources
        watch = ConfigurationWatch(plan.files)
        var planner = UnitPlanner(configuration: reading.configuration, plan: plan)
        let planned = planner.units()
        self.planner = planner
        let records = saved.records()
        let takesOver = !saved.whole.isEmpty
        self.takesOver = takesOver
        hasReported = saved.whole.first == "reported"
        (units, isKnown) = Self.arrange(planned, records)
        lost = records.indices.filter { records[$0] == nil }
        if takesOver {
            engine = Engine(
                units.map(\.spec), records: records, phase: Array(saved.whole.dropFirst()), budget: plan.budget,
                seed: randomUInt64(), at: .now)
            for (id, record) in records.enumerated() {
                if let text = record?.statusText, !text.isEmpty { statusTexts[id] = text }
            }
        } else {
            engine = Engine(units.map(\.spec), budget: plan.budget, seed: randomUInt64())
            for note in planner.notes { console.notice(note) }
        }
        engine.endsWithTasks = plan.start.isPrebuild
        let upkeep = try StateUpkeep(state, console, takesOver: takesOver, at: .now)
        self.upkeep = upkeep
        if !takesOver {
            try Files.replace(state.logsBegin, [])
        }
        events = EventLog(state.events, console: console, continues: takesOver)
        logs = units.map { [state, console, outputBuffer, openLogs] in
            Self.log(of: $0, state, console, outputBuffer, openLogs, continues: takesOver)
        }
        // Who may do what is decided by whom the kernel says a connection is from.
        listener = try upkeep.socket(at: state.socket, kept: kept[.control])
        if listener.number != kept[.control]?.number { keeper.keep(.control, listener) }
        metricsListener = Self.listenForMetrics(state.metrics, keeper, upkeep, kept: kept[.metrics], console)
        poller = try Poller()
        try poller.add(signals.number, .readable, token: Token.signals)
        try poller.add(listener.number, .readable, token: Token.listener)
        try poller.add(keeper.socket.number, .readable, token: Token.keeper)
        try poller.add(report.descriptor.number, .readable, token: Token.report)
        if let metricsListener { try poller.add(metricsListener.number, .readable, token: Token.metrics) }
        if let descriptor = watch.descriptor {
            try poller.add(descriptor.number, .readable, token: Token.configuration)
        }
        try CurrentProcess.becomeSubreaper()
    }

    static func log(
        of unit: PlannedUnit, _ state: StateDirectory, _ console: Console, _ buffer: ReadBuffer, _ openLogs: OpenLogs,
        continues: Bool = false
    ) -> UnitLog {
        UnitLog(
            name: unit.spec.name, path: state.log(of: unit.spec.name), console: console, sizeLimit: unit.logSize,
            fileCount: unit.logFiles, continues: continues, buffer: buffer, openLogs: openLogs)
    }

    /// These sources count from now on, here and for whoever takes over.
    func adopt(_ sources: [Source]) {
        lastSources = sources
        plan.sources = sources
        do { try saved.save(plan) } catch { console.notice("\(error)") }
    }

    /// Runs until the engine has finished; the workspace's exit code.
    func run() throws(KernelError) -> UInt8 {
        if takesOver {
            takeOver(kept, isKnown: isKnown, lost: lost)
            installCommands()
            // It may have been edited meanwhile.
            followConfiguration()
        } else {
            begin()
        }
        keeper.ready()
        CurrentProcess.releaseCode()
        lookForGroups()
        while exitCode == nil {
            settleClients()
            settleOutput()
            keeper.settle(poller, token: Token.keeper)
            report.settle(poller, token: Token.report)
            let due = [engine.nextDeadline, watch.dueAt, console.deadline].compactMap { $0 }.min()
            stalls.waits(until: due, at: .now)
            let timeout = clients.hasWork ? .zero : due.map { max(.zero, $0 - .now) }
            let count = try poller.wait(timeout)
            if let lost = stalls.woke(at: .now) {
                perform { engine, now, actions in engine.handle(.stalled(lost), at: now, into: &actions) }
            }
            var hasOutput = false
            for index in 0..<count {
                let event = poller.event(index)
                let number = Int32(truncatingIfNeeded: event.token & 0xffff_ffff)
                switch event.token & 0xffff_ffff_0000_0000 {
                case Token.signals: takeSignals()
                case Token.listener: acceptConnections()
                case Token.keeper: takeKeeperMessages()
                case Token.connection: clients.arrived(number)
                case Token.report: takeReport()
                case Token.metrics: acceptScraper()
                case Token.scraper: serveScraper(number)
                case Token.probe: takeProbeOutput(number)
                case Token.configuration: watch.take(at: .now)
                case Token.readiness: takeReadiness(Int(number))
                case Token.listeners:
                    let id = Int(number)
                    perform { engine, now, actions in
                        engine.handle(.connectionArrived(id), at: now, into: &actions)
                    }
                case Token.outputs: hasOutput = true
                default: break  // the console, which is written at the end of each turn
                }
            }
            serveClients()
            // Units may print without an end: what clients asked for goes first.
            if hasOutput {
                settleClients()
                readOutputs()
            }
            // Most of what wakes us is an orphan's end, which changes nothing.
            if let due = engine.nextDeadline, due <= .now {
                perform { engine, now, actions in engine.advance(to: now, into: &actions) }
            }
            if watch.isDue(at: .now) { followConfiguration() }
            if !engine.isStopping, upkeep.isLost(at: .now) { handOver() }
            lookForGroups()
        }
        for id in outputs.ids { readOutput(id, pieces: 16) }
        closeListeners()
        try? Files.remove(state.socket)
        try? Files.remove(state.metrics)
        if plan.start.isPrebuild { printSummary() }
        var end = WorkspaceEvent(.exited, kind: "workspace")
        end.exitCode = exitCode
        events.write([end])
        console.finish()
        keeper.finished()
        return exitCode ?? 70
    }

    private func begin() {
        events.write([WorkspaceEvent(.started, kind: "workspace")])
        if planner.needsHome { _ = try? WorkspaceMemory(plan.workspaceDirectory).open("home") }
        installCommands()
        for id in units.indices {
            openFirstListeners(id)
            guard units[id].spec != engine.specs[id] else { continue }
            let spec = units[id].spec
            perform { engine, now, actions in engine.handle(.redefined(id, spec), at: now, into: &actions) }
        }
        perform { engine, now, actions in engine.handle(.begun, at: now, into: &actions) }
    }

    // MARK: the engine

    func perform(_ event: (inout Engine, MonotonicInstant, inout [Engine.Action]) -> Void) {
        var actions: [Engine.Action] = []
        event(&engine, .now, &actions)
        var next = 0
        // An action may bring an event, whose actions follow; each unit starts at most once a round, so this ends.
        while next < actions.count {
            switch actions[next] {
            case .spawn(let id): start(id, &actions)
            case .signal(let pid, let signal): askToEnd(-pid, signal)
            case .signalMain(let pid, let signal): askToEnd(pid, signal)
            case .preStop(let id):
                if runPreStop(id) { engine.handle(.preStopEnded(id), at: .now, into: &actions) }
            case .cancelPreStop(let id): cancelPreStop(id)
            case .kill(let id, let group): killRest(of: id, group)
            case .lookForGroup(let id, let group): groupsToLookFor.append((id, group))
            case .probe(let id, let number): probe(id, number, &actions)
            case .cancelProbe(let id, let number): cancelProbe(id, number)
            case .report(let id, let text): console.notice("\(units[id].spec.name): \(text)")
            case .reportEnd(let id, let ending):
                let step = failedStep(of: id, ending).map { " (\($0))" } ?? ""
                console.notice("\(units[id].spec.name): ended: \(ending)\(step)")
            case .announce(let text): console.notice(text)
            case .finish(let code): exitCode = code
            }
            next += 1
        }
        settleListeners()
        save()
        answerWaiters()
    }

    /// Ends this process: the next supervisor goes on with everything, and opens again what was removed.
    private func handOver() {
        send(.kill, to: CurrentProcess.id)
    }

    /// `gp` for the tasks that call it, last in their PATH.
    private func installCommands() {
        guard let binary = Files.linkTarget("/proc/self/exe"), Files.isAccessible(binary, 1) else { return }
        do {
            try Files.makeDirectory(state.commands)
            let link = state.commands + "/gp"
            if Files.status(link, followLinks: false) != nil { try Files.remove(link) }
            try Files.symlink(binary, at: link)
            // For shells that start from an empty environment (su -, sshd).
            try Files.replace(state.ownPath, Array(state.path.utf8))
        } catch { console.notice("\(error): there is no gp") }
    }

    // MARK: events

    func take(_ signal: Signal) {
        guard signal == .terminate || signal == .interrupt else { return }
        perform { engine, now, actions in engine.handle(.shutdownRequested, at: now, into: &actions) }
    }

    private func takeSignals() {
        while let (signal, _) = signals.next() { take(signal) }
        for _ in 0..<100_000 {
            // Collected only once what follows is saved: if we end in between, ring2 finds it.
            switch reap(alsoStopped: true, leaving: true) {
            case .ended(let pid, let status):
                childEnded(pid, status)
                reap(pid)
            case .stopped(let pid):
                childStopped(pid)
                reap(pid, alsoStopped: true)
            case .nothingYet, .noChildren: return
            }
        }
    }

    /// A process ended: ours, or one of an earlier supervisor's; anybody's.
    func childEnded(_ pid: Int32, _ status: ExitStatus) {
        if finishProbe(pid, status) || finishPreStop(pid, status) { return }
        finishExecution(pid, status)
        // Most are nobody's: what tasks leave behind.
        guard let id = engine.states.firstIndex(where: { $0.pid == pid }) else { return }
        // What it said last comes before the news of its end.
        takeReadiness(id)
        if let successor = successor(of: id, status) {
            return perform { engine, now, actions in
                engine.handle(.replaced(id, pid: successor), at: now, into: &actions)
            }
        }
        readOutput(id, pieces: 16)
        if case .running(_, let since) = engine.states[id] { durations[id] = .now - since }
        if plan.start.isPrebuild { noteWaitReasons() }
        let event = endEvent(pid, status)
        perform { engine, now, actions in engine.handle(event, at: now, into: &actions) }
    }

    /// Nobody could resume it: the terminal's suspend key has no shell behind it here.
    func childStopped(_ pid: Int32) {
        if engine.states.indices.contains(where: { isCommand($0, pid) }) { send(.resume, to: -pid) }
    }

    private func isCommand(_ id: Int, _ pid: Int32) -> Bool {
        if case .running(pid, _) = engine.states[id] { return units[id].spec.kind == .command }
        return false
    }

    /// Reads units' outputs in turn, until the console has enough.
    private func readOutputs() {
        for _ in 0..<UnitOutputs.piecesPerTurn where !console.holdsUnitsBack {
            guard let id = outputs.nextReady() else { return }
            readOutput(id, pieces: 1)
        }
    }

    private func readOutput(_ id: Int, pieces: Int) {
        guard let output = outputs[id] else { return }
        let isLookedAt = if case .log? = readiness[id] { true } else { false }
        for _ in 0..<pieces {
            switch logs[id].take(
                from: output.number, eachPiece: { showViewers(id, $0) },
                eachLine: isLookedAt ? { [self] in takeLine(id, $0) } : nil)
            {
            case .bytes(0), .failed:
                outputs.forget(id)
                keeper.discard(.output(id))
                endViewers(id)
                return logs[id].finish()
            case .bytes: continue
            case .wouldBlock: return
            }
        }
    }

    /// Writes to the console what was collected, and has the loop wait for what it now waits for.
    private func settleOutput() {
        console.settle(poller, tokens: (Token.console, Token.console | 1), at: .now)
        outputs.settle(poller, token: Token.outputs, heldBack: console.holdsUnitsBack)
    }
}
