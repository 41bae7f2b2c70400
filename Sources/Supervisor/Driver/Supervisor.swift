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
    let plan: SupervisorPlan
    var units: [PlannedUnit]
    let state: StateDirectory
    let console: Console
    let report: Channel
    var engine: Engine
    var logs: [UnitLog]
    /// The reading end of each unit's output, while it has one.
    private var outputs: [Int: Descriptor] = [:]
    let listener: Descriptor
    let poller: Poller
    private let signals: SignalReader
    var connections: [Int32: ControlConnection] = [:]
    /// Programs run by `exec`, with the connection that waits for each.
    var executions: [Int32: Int32] = [:]
    private var exitCode: UInt8?
    private var hasReported = false
    var planner: UnitPlanner
    var reading: Reading
    private var watch: ConfigurationWatch
    /// How each unit that is yet to say it says that it is ready.
    var readiness: [Int: ReadinessChannel] = [:]
    /// What units said of themselves (STATUS= of sd_notify(3)).
    var statusTexts: [Int: String] = [:]
    /// Healthchecks under way, by pid.
    var probes: [Int32: RunningProbe] = [:]
    /// The sockets of socket-activated units.
    var listeners: [Int: [(spec: ListenerSpec, socket: Descriptor)]] = [:]
    /// Units whose sockets are watched for a first connection.
    var watchedListeners: Set<Int> = []
    /// Who waits for something to happen to a unit.
    var waiters: [Waiter] = []
    /// The files' content when they were read last, in order or not: what was said once is not said again.
    var lastSources: [Source]

    enum Token {
        static let signals: UInt64 = 1 << 32
        static let listener: UInt64 = 2 << 32
        static let connection: UInt64 = 3 << 32
        static let output: UInt64 = 4 << 32
        static let configuration: UInt64 = 5 << 32
        static let readiness: UInt64 = 6 << 32
        static let listeners: UInt64 = 7 << 32
    }

    init(_ plan: SupervisorPlan, report: Channel) throws(KernelError) {
        self.plan = plan
        self.report = report
        state = StateDirectory(plan.stateDirectory)
        console = Console(output: 1, isQuiet: plan.isQuiet)
        reading = Reading(plan.sources)
        lastSources = plan.sources
        watch = ConfigurationWatch(plan.files)
        var planner = UnitPlanner(configuration: reading.configuration, plan: plan)
        units = planner.units()
        for note in planner.notes { console.notice(note) }
        self.planner = planner
        engine = Engine(units.map(\.spec), budget: plan.budget, seed: randomUInt64())
        try Files.makeDirectory(state.logs, mode: 0o700)
        logs = units.map { [state, console] in Self.log(of: $0, state, console) }
        signals = try SignalReader([.child, .terminate, .interrupt, .hangup, .quit, .user1, .user2, .pipe])
        listener = try LocalSocket.listen(state.socket)
        poller = try Poller()
        try poller.add(signals.number, .readable, token: Token.signals)
        try poller.add(listener.number, .readable, token: Token.listener)
        if let descriptor = watch.descriptor {
            try poller.add(descriptor.number, .readable, token: Token.configuration)
        }
        try CurrentProcess.becomeSubreaper()
    }

    static func log(of unit: PlannedUnit, _ state: StateDirectory, _ console: Console) -> UnitLog {
        UnitLog(
            name: unit.spec.name, path: state.log(of: unit.spec.name), console: console, sizeLimit: unit.logSize,
            fileCount: unit.logFiles)
    }

    /// Runs until the engine has finished; the workspace's exit code.
    func run() throws(KernelError) -> UInt8 {
        writeGitConfiguration()
        for id in units.indices {
            openListeners(id)
            guard units[id].spec != engine.specs[id] else { continue }
            let spec = units[id].spec
            perform { engine, now, actions in engine.handle(.redefined(id, spec), at: now, into: &actions) }
        }
        perform { engine, now, actions in engine.handle(.begun, at: now, into: &actions) }
        while exitCode == nil {
            let due = [engine.nextDeadline, watch.dueAt].compactMap { $0 }.min()
            let timeout = due.map { max(.zero, $0 - .now) }
            for index in 0..<(try poller.wait(timeout)) {
                let event = poller.event(index)
                let number = Int32(truncatingIfNeeded: event.token & 0xffff_ffff)
                switch event.token & 0xffff_ffff_0000_0000 {
                case Token.signals: takeSignals()
                case Token.listener: acceptConnection()
                case Token.connection: serve(number)
                case Token.configuration: watch.take(at: .now)
                case Token.readiness: takeReadiness(Int(number))
                case Token.listeners:
                    let id = Int(number)
                    perform { engine, now, actions in
                        engine.handle(.connectionArrived(id), at: now, into: &actions)
                    }
                default: readOutput(Int(number))
                }
            }
            perform { engine, now, actions in engine.advance(to: now, into: &actions) }
            if watch.isDue(at: .now) { followConfiguration() }
        }
        for index in Array(outputs.keys) { readOutput(index) }
        closeListeners()
        try? Files.remove(state.socket)
        return exitCode ?? 70
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
            case .signal(let pid, let signal): send(signal, to: -pid)
            case .killGroup(let pid): send(.kill, to: -pid)
            case .probe(let id, let number): probe(id, number, &actions)
            case .cancelProbe(let id, let number): cancelProbe(id, number)
            case .report(let id, let text): console.notice("\(units[id].spec.name): \(text)")
            case .finish(let code): exitCode = code
            }
            next += 1
        }
        for id in listeners.keys { watchListeners(id) }
        answerWaiters()
    }

    private func start(_ id: Int, _ actions: inout [Engine.Action]) {
        let event: Engine.Event
        do {
            event = .spawned(id, pid: try spawnUnit(id))
        } catch {
            event = .spawnFailed(id, reason: "\(error)")
        }
        engine.handle(event, at: .now, into: &actions)
        if !hasReported, case .spawned = event {
            hasReported = true
            try? report.send(ChannelMessage("started", ["\(MonotonicInstant.now.nanoseconds)"]))
        }
    }

    private func spawnUnit(_ id: Int) throws(KernelError) -> Int32 {
        let unit = units[id]
        guard let program = findExecutable(unit.arguments[0], path: unit.path) else {
            throw KernelError(call: "find", subject: unit.arguments[0], errno: .noSuchFileOrDirectory)
        }
        var spawnPlan = SpawnPlan(
            path: program, arguments: unit.arguments, environment: unit.environment, descriptors: [0, 1, 2])
        spawnPlan.directory = unit.directory
        spawnPlan.identity = unit.identity
        spawnPlan.limits = unit.limits
        spawnPlan.outOfMemoryAdjustment = unit.outOfMemoryAdjustment
        if unit.spec.kind == .command {
            // A job of the caller's terminal, as a shell would start it.
            spawnPlan.newGroup = true
            if Terminal.isTerminal(0) { spawnPlan.foregroundTerminal = 0 }
            return try spawn(spawnPlan)
        }
        if let marker = unit.initMarker { try makeMarkerDirectory(marker, unit.identity) }
        let input = try Files.open("/dev/null", flags: 0)
        let (reading, writing) = try makePipe()
        spawnPlan.newSession = true
        spawnPlan.descriptors = [input.number, writing.number, writing.number]
        passListeners(id, &spawnPlan)
        let notifying = try prepareReadiness(id, &spawnPlan)
        let pid = try spawn(spawnPlan)
        withExtendedLifetime((input, writing, notifying)) {}
        if let old = outputs[id] { poller.remove(old.number) }
        try reading.setNonblocking(true)
        outputs[id] = reading
        try poller.add(reading.number, .readable, token: Token.output | UInt64(id))
        return pid
    }

    /// The workspace remembers which tasks' `init` has run, out of version control's sight.
    private func makeMarkerDirectory(_ marker: String, _ identity: Identity?) throws(KernelError) {
        let root = plan.workspaceDirectory + "/.workspacekit"
        for directory in [root, root + "/init"] {
            try Files.makeDirectory(directory)
            if let identity { try Files.changeOwner(directory, uid: identity.uid, gid: identity.gid) }
        }
        let ignore = root + "/.gitignore"
        if Files.status(ignore) == nil { try Files.write(ignore, Array("*\n".utf8)) }
    }

    // MARK: events

    private func takeSignals() {
        while let (signal, _) = signals.next() {
            if signal == .terminate || signal == .interrupt {
                perform { engine, now, actions in engine.handle(.shutdownRequested, at: now, into: &actions) }
            }
        }
        for _ in 0..<100_000 {
            switch reap(alsoStopped: true) {
            case .ended(let pid, let status):
                if finishProbe(pid, status) { continue }
                finishExecution(pid, status)
                // What the process wrote last comes before the news of its end.
                for (index, unitState) in engine.states.enumerated() {
                    if case .running(pid, _) = unitState { readOutput(index) }
                }
                perform { engine, now, actions in engine.handle(.exited(pid: pid, status), at: now, into: &actions) }
            case .stopped(let pid):
                // Nobody could resume it: the terminal's suspend key has no shell behind it here.
                if engine.states.indices.contains(where: { isCommand($0, pid) }) { send(.resume, to: -pid) }
            case .nothingYet, .noChildren: return
            }
        }
    }

    private func isCommand(_ id: Int, _ pid: Int32) -> Bool {
        if case .running(pid, _) = engine.states[id] { return units[id].spec.kind == .command }
        return false
    }

    private func readOutput(_ id: Int) {
        guard let output = outputs[id] else { return }
        var buffer = [UInt8](repeating: 0, count: 65536)
        for _ in 0..<16 {
            switch Kernel.read(output.number, into: &buffer) {
            case .bytes(0), .failed:
                poller.remove(output.number)
                outputs[id] = nil
                return logs[id].finish()
            case .bytes(let count): logs[id].write(buffer[..<count]) { takeLine(id, $0) }
            case .wouldBlock: return
            }
        }
    }
}
