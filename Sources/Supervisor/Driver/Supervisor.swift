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
    private let listener: Descriptor
    private let poller: Poller
    private let signals: SignalReader
    private var connections: [Int32: ControlConnection] = [:]
    /// Programs run by `exec`, with the connection that waits for each.
    private var executions: [Int32: Int32] = [:]
    private var exitCode: UInt8?
    private var hasReported = false
    var planner: UnitPlanner
    var reading: Reading
    private var watch: ConfigurationWatch
    /// The files' content when they were read last, in order or not: what was said once is not said again.
    var lastSources: [Source]

    private enum Token {
        static let signals: UInt64 = 1 << 32
        static let listener: UInt64 = 2 << 32
        static let connection: UInt64 = 3 << 32
        static let output: UInt64 = 4 << 32
        static let configuration: UInt64 = 5 << 32
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
        UnitLog(name: unit.spec.name, path: state.log(of: unit.spec.name), console: console)
    }

    /// Runs until the engine has finished; the workspace's exit code.
    func run() throws(KernelError) -> UInt8 {
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
                default: readOutput(Int(number))
                }
            }
            perform { engine, now, actions in engine.advance(to: now, into: &actions) }
            if watch.isDue(at: .now) { followConfiguration() }
        }
        for index in Array(outputs.keys) { readOutput(index) }
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
            case .report(let id, let text): console.notice("\(units[id].spec.name): \(text)")
            case .finish(let code): exitCode = code
            }
            next += 1
        }
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
        let path = unit.environment.first { $0.hasPrefix("PATH=") }.map { String($0.dropFirst(5)) } ?? ""
        guard let program = findExecutable(unit.arguments[0], path: path) else {
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
        let pid = try spawn(spawnPlan)
        withExtendedLifetime((input, writing)) {}
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
            case .bytes(let count): logs[id].write(buffer[..<count])
            case .wouldBlock: return
            }
        }
    }

    // MARK: control

    private func acceptConnection() {
        guard let socket = LocalSocket.accept(listener.number) else { return }
        // Only whoever runs the workspace: its root, who is the caller of `run`, inside and outside.
        guard let peer = LocalSocket.peer(socket.number), peer.uid == CurrentProcess.user else {
            ControlConnection(socket).send(ControlResponse(error: "the workspace belongs to another user"))
            return
        }
        do {
            try poller.add(
                socket.number, .readable, token: Token.connection | UInt64(UInt32(bitPattern: socket.number)))
            connections[socket.number] = ControlConnection(socket)
        } catch {
            console.notice("\(error)")
        }
    }

    private func serve(_ number: Int32) {
        guard let connection = connections[number] else { return }
        while true {
            switch connection.next() {
            case .nothingYet: return
            case .closed:
                poller.remove(number)
                connections[number] = nil
                // Whoever waited for a program is gone: the program is told so, as by a closed terminal.
                for (pid, waiting) in executions where waiting == number {
                    send(.hangup, to: -pid)
                    executions[pid] = -1
                }
                return
            case .line(let line):
                guard let request = ControlConnection.decode(ControlRequest.self, line) else {
                    connection.send(ControlResponse(error: "not understood"))
                    continue
                }
                answer(request, connection)
            }
        }
    }

    private func answer(_ request: ControlRequest, _ connection: ControlConnection) {
        switch request.verb {
        case .status: connection.send(ControlResponse(status: status()))
        case .stop:
            connection.send(ControlResponse())
            perform { engine, now, actions in engine.handle(.shutdownRequested, at: now, into: &actions) }
        case .restart:
            guard let id = visibleUnits.first(where: { units[$0].spec.name == request.name }) else {
                let names = visibleUnits.map { units[$0].spec.name }.joined(separator: ", ")
                connection.send(ControlResponse(error: "no unit \"\(request.name ?? "")\" (there are: \(names))"))
                return
            }
            if case .skipped(let reason) = engine.states[id] {
                connection.send(ControlResponse(error: "\(units[id].spec.name) is skipped: \(reason)"))
                return
            }
            perform { engine, now, actions in engine.handle(.restartRequested(id), at: now, into: &actions) }
            connection.send(ControlResponse())
        case .plan:
            connection.send(ControlResponse(plan: readAgain().plan))
        case .reload:
            let (plan, apply) = readAgain()
            apply()
            connection.send(ControlResponse(plan: plan))
        case .exec:
            do {
                try execute(request, connection)
            } catch {
                connection.send(ControlResponse(error: "\(error)"))
            }
            connection.received = []
        }
    }

    private func execute(_ request: ControlRequest, _ connection: ControlConnection) throws(KernelError) {
        guard let command = request.command, let name = command.first else {
            throw KernelError(call: "execute", subject: "nothing", errno: .invalidArgument)
        }
        var identity: Identity?
        if let user = request.user {
            guard let found = planner.users.identity(for: user) else {
                throw KernelError(call: "find user", subject: user, errno: .noSuchFileOrDirectory)
            }
            identity = found
        }
        let environment = planner.environment(for: identity, adding: []) + (request.environment ?? [])
        let path = environment.last { $0.hasPrefix("PATH=") }.map { String($0.dropFirst(5)) } ?? ""
        guard let program = findExecutable(name, path: path) else {
            throw KernelError(call: "find", subject: name, errno: .noSuchFileOrDirectory)
        }
        var spawnPlan = SpawnPlan(path: program, arguments: command, environment: environment, descriptors: [])
        spawnPlan.directory = request.directory ?? plan.workspaceDirectory
        spawnPlan.identity = identity
        spawnPlan.newSession = true
        spawnPlan.limits = [planner.coreLimit]
        var answerDescriptors: [Descriptor] = []
        var held: [Descriptor] = []
        if request.terminal == true {
            let (master, terminal) = try Terminal.open()
            spawnPlan.descriptors = [terminal.number, terminal.number, terminal.number]
            spawnPlan.controllingTerminal = 0
            answerDescriptors = [master]
            held = [terminal]
        } else {
            guard connection.received.count >= 3 else {
                throw KernelError(call: "execute", subject: "without standard streams", errno: .badFileDescriptor)
            }
            held = Array(connection.received.prefix(3))
            spawnPlan.descriptors = held.map(\.number)
        }
        let pid = try spawn(spawnPlan)
        withExtendedLifetime(held) {}
        executions[pid] = connection.descriptor.number
        connection.send(ControlResponse(), descriptors: answerDescriptors)
    }

    private func finishExecution(_ pid: Int32, _ status: ExitStatus) {
        guard let waiting = executions.removeValue(forKey: pid) else { return }
        connections[waiting]?.send(ControlResponse(exitCode: status.code))
    }

    /// All but those that the configuration no longer has, once they ended.
    private var visibleUnits: [Int] {
        units.indices.filter { id in
            if !engine.isRemoved[id] { return true }
            switch engine.states[id] {
            case .running, .stopping: return true
            default: return false
            }
        }
    }

    private func status() -> WorkspaceStatus {
        let now = MonotonicInstant.now
        func seconds(_ duration: Duration) -> Double { Double(duration.nanoseconds / 1_000_000) / 1000 }
        let list = visibleUnits.map { id in
            var unit = UnitStatus(
                name: units[id].spec.name, kind: units[id].spec.kind.rawValue, state: "", restarts: engine.restarts[id])
            unit.exitCode = engine.lastEndings[id]?.code
            unit.reason = engine.lastEndings[id]?.description
            switch engine.states[id] {
            case .waiting, .starting: unit.state = "waiting"
            case .running(let pid, let since):
                unit.state = "running"
                unit.pid = pid
                unit.uptimeSeconds = seconds(now - since)
            case .backingOff(let until, let delay, _):
                unit.state = "backing off"
                unit.backoffSeconds = seconds(delay)
                unit.nextTrySeconds = max(0, seconds(until - now))
            case .stopping(let pid, _, _):
                unit.state = "stopping"
                unit.pid = pid
            case .ended(let ending, let byRequest):
                unit.state = byRequest ? "stopped" : ending.isSuccess ? "completed" : "failed"
            case .skipped(let reason):
                unit.state = "skipped"
                unit.reason = reason
            }
            return unit
        }
        return WorkspaceStatus(state: engine.isStopping ? "stopping" : "running", units: list)
    }
}
