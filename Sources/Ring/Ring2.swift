internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// PID 1 of the workspace. Its death ends every process in it, so it does next to nothing: it makes the new root the
/// root, starts the supervisor, and then only reaps, relays signals, and ends what is left. Its loop allocates nothing
/// but where it starts a supervisor.
///
///     running ── supervisor finished ───────────▶ sweeping(SIGTERM sent) ── grace over ──▶ SIGKILL ──▶ exit
///        └───── asked to stop, stopGrace over ──▶ kill the supervisor ─┘
///
/// A supervisor that ends without having said that it has finished is followed by another (``SupervisorRestart``). What
/// the next one needs is not in any process: its state lies in a memory file (descriptor 4 of every supervisor), its
/// descriptors in a ``DescriptorStore`` here, and the processes that it had started become our children, whose ends are
/// passed on. An ended child is collected only once that is done: a supervisor that does not read finds out later.
///
/// KERNEL: kill(-1) reaches every process of the PID namespace but the caller and PID 1; PID 1 ignores signals whose
/// action is the default, but not blocked ones, which signalfd(2) then reads (pid_namespaces(7)).
public enum Ring2 {
    /// The whole life of the stage. Returns the exit code.
    public static func main() -> UInt8 {
        CurrentProcess.setName("workspacekit")
        let channel = Channel(Descriptor(OwnedDescriptor(owning: StageDescriptor.channel)))
        do {
            try CurrentProcess.setDeathSignal(.kill)
            let signals = try SignalReader(relayedSignals + [.child])
            guard case .plan(let plan)? = try channel.next(within: .seconds(5)) else { return 71 }
            try CurrentProcess.becomeSubreaper()
            if !plan.isolation.hasOwnProcesses { try Ring1.outlivesParent() }
            if plan.isolation != .superviseOnly {
                try setHostName(plan.hostName)
                try RootFilesystem(root: plan.stagingDirectory, plan: plan, note: { try? channel.send(.note($0)) })
                    .enter()
                try Sandbox.restrictWorkspace(confined: plan.isConfined, withoutCgroups: plan.masksMachine)
            }
            var copies = try EditableCopies(plan) { try? channel.send(.note($0)) }
            CurrentProcess.raiseOpenFilesLimit()
            let namespaces = try plan.workspaceIDs.map { (ids) throws(KernelError) in
                try leaveWorkspace(ids, plan, &copies)
            }
            try channel.send(.ready)
            // ring0 answers once the forwarder is up.
            guard case .go? = try channel.next(within: .seconds(30)) else { return 71 }
            var life = try WorkspaceLife.begin(
                plan, parent: channel, signals: signals, copies: copies, namespaces: namespaces ?? [])
            return try life.run()
        } catch {
            try? channel.send(.failed(StageFailure("ring2", error)))
            return 71
        }
    }

    /// Makes the workspace's mount namespace, and becomes a user whom the workspace does not have. What the supervisor starts
    /// units in: the descriptors that it gets.
    private static func leaveWorkspace(
        _ ids: WorkspaceIDs, _ plan: RingPlan, _ copies: inout EditableCopies
    ) throws(KernelError) -> [Descriptor] {
        let users = Descriptor(OwnedDescriptor(owning: StageDescriptor.users))
        // Read-only in the workspace, where the lock of a mount keeps what it was made with; writable here.
        if plan.masksMachine { ControlGroups.setWritable(false) }
        let state = plan.filesystem.root == .shared ? nil : plan.filesystem.state
        if let state { try Mounts.setReadOnly(onlyAt: state, true) }
        let mounts = try WorkspaceMounts(users: users)
        copies.watch(mounts)
        if plan.masksMachine { ControlGroups.setWritable(true) }
        if let state { try Mounts.setReadOnly(onlyAt: state, false) }
        if let user = ids.stages {
            try CurrentProcess.become(user: user, keeping: .ofStages)
            try CurrentProcess.setFileUser(0)
            // The supervisor, and programs in the workspace, find files under /proc/self that belong to their user.
            CurrentProcess.setDumpable(true)
            if plan.isolation.hasOwnProcesses { try CurrentProcess.setDeathSignal(.kill) }
        }
        return [users, mounts.namespace]
    }
}

/// ring2 while the workspace runs.
private struct WorkspaceLife: ~Copyable {
    private enum Phase {
        case running
        case stopping(deadline: MonotonicInstant)
        case sweeping(status: UInt8, deadline: MonotonicInstant, killed: Bool)
    }
    private enum Token {
        static let signals: UInt64 = 0, parent: UInt64 = 1, supervisor: UInt64 = 2, mounts: UInt64 = 3
    }

    private let plan: RingPlan
    private let parent: Channel
    private let signals: SignalReader
    private let poller: Poller
    /// Our end of the supervisor's channel, and the one that each supervisor gets a copy of.
    private let ours: Descriptor, theirs: Descriptor
    private let spawnPlan: SpawnPlan
    /// What ``StageDescriptor/users`` and ``StageDescriptor/mounts`` of each supervisor are.
    private let namespaces: [Descriptor]
    private var store = DescriptorStore()
    private var copies: EditableCopies
    private var phase = Phase.running
    /// The supervisor's process; nil between two.
    private var supervisor: Int32?
    private var restart = SupervisorRestart()
    private var startAt: MonotonicInstant?
    /// The supervisor has said that its end is meant.
    private var hasFinished = false
    /// The next entry of the store that the supervisor is to be given; beyond the last one when it has them all.
    private var nextKept = 0
    private var hasAllKept = false
    /// Signals that the supervisor is yet to be told of; bit n - 1 for signal n.
    private var pendingSignals: UInt64 = 0

    static func begin(
        _ plan: RingPlan, parent: Channel, signals: consuming SignalReader, copies: EditableCopies,
        namespaces: [Descriptor]
    ) throws(KernelError) -> WorkspaceLife {
        let (ours, theirs) = try makeSocketPair(.sequencedPacket)
        try ours.setNonblocking(true)
        try theirs.setNonblocking(true)
        var spawnPlan = SpawnPlan(
            path: "/proc/self/exe", arguments: ["workspacekit"] + plan.supervisor, environment: currentEnvironment(),
            // The numbers of StageDescriptor.
            descriptors: [0, 1, 2, theirs.number, StageDescriptor.configuration, StageDescriptor.report]
                + namespaces.map(\.number))
        spawnPlan.deathSignal = .kill
        let poller = try Poller()
        try poller.add(signals.number, .readable, token: Token.signals)
        try poller.add(parent.descriptor.number, .readable, token: Token.parent)
        try poller.add(ours.number, [.readable, .writable, .edgeTriggered], token: Token.supervisor)
        if let mounts = copies.mounts {
            try? poller.add(mounts.number, [.urgent, .edgeTriggered], token: Token.mounts)
        }
        var life = WorkspaceLife(plan, parent, signals, poller, ours, theirs, spawnPlan, copies, namespaces)
        if let (file, made) = copies.resolver {
            for (key, descriptor) in [(KeptFile.resolverCopy, file), (KeptFile.resolverMade, made)] {
                life.store.keep(key, try descriptor.duplicate())
            }
        }
        if let root = copies.workspaceRoot { life.store.keep(KeptFile.workspaceRoot, try root.duplicate()) }
        return life
    }

    private init(
        _ plan: RingPlan, _ parent: Channel, _ signals: consuming SignalReader, _ poller: consuming Poller,
        _ ours: Descriptor, _ theirs: Descriptor, _ spawnPlan: SpawnPlan, _ copies: EditableCopies,
        _ namespaces: [Descriptor]
    ) {
        self.namespaces = namespaces
        self.copies = copies
        self.plan = plan
        self.parent = parent
        self.signals = signals
        self.poller = poller
        self.ours = ours
        self.theirs = theirs
        self.spawnPlan = spawnPlan
    }

    mutating func run() throws(KernelError) -> UInt8 {
        supervisor = try spawn(spawnPlan)
        restart.started(at: .now)
        CurrentProcess.releaseCode()
        while true {
            let now = MonotonicInstant.now
            if let status = advance(to: now) { return status }
            deliver()
            if let status = reapChildren() { return status }
            parent.settle(poller, token: Token.parent)
            let count = try poller.wait(nextDeadline.map { max(.zero, $0 - .now) })
            for index in 0..<count {
                switch poller.event(index).token {
                case Token.signals: takeSignals()
                case Token.parent:
                    switch parent.next() {
                    case .closed:
                        // ring1 is gone.
                        if !plan.isolation.hasOwnProcesses { Descendants.end() }
                        return 70
                    case .message(.files(let texts)):
                        copies.changed(at: .now)
                        copies.update(texts) { [parent] in try? parent.send(.note($0)) }
                    case .message, .nothingYet: break
                    }
                case Token.mounts: copies.changed(at: .now)
                default: takeMessages()
                }
            }
        }
    }

    private var nextDeadline: MonotonicInstant? {
        switch phase {
        case .running: [startAt, copies.dueAt].compactMap { $0 }.min()
        case .stopping(let deadline): min(deadline, startAt ?? deadline)
        case .sweeping(_, let deadline, _): deadline
        }
    }

    /// Does what is due; the exit code when everything is over.
    private mutating func advance(to now: MonotonicInstant) -> UInt8? {
        if let due = startAt, due <= now { startSupervisor(at: now) }
        if case .running = phase { copies.advance(to: now) { [parent] in try? parent.send(.note($0)) } }
        switch phase {
        case .running: break
        case .stopping(let deadline) where deadline <= now:
            if let supervisor {
                hasFinished = true
                send(.kill, to: supervisor)
                phase = .stopping(deadline: now + .seconds(1))
            } else {
                sweep(status: 137, at: now)
            }
        case .stopping: break
        case .sweeping(let status, let deadline, let killed) where deadline <= now:
            if killed { return status }
            signalEveryone(.kill)
            phase = .sweeping(status: status, deadline: now + .seconds(1), killed: true)
        case .sweeping: break
        }
        return nil
    }

    private mutating func sweep(status: UInt8, at now: MonotonicInstant) {
        startAt = nil
        signalEveryone(.terminate)
        // A stopped process takes the signal only once it continues.
        signalEveryone(.resume)
        phase = .sweeping(status: status, deadline: now + plan.strayGrace, killed: false)
    }

    // MARK: the supervisor

    private mutating func startSupervisor(at now: MonotonicInstant) {
        startAt = nil
        nextKept = 0
        hasAllKept = false
        // What was relayed may have ended with the one before.
        if case .stopping = phase { pendingSignals |= 1 << UInt64(Signal.terminate.rawValue - 1) }
        do {
            supervisor = try spawn(spawnPlan)
            restart.started(at: now)
        } catch {
            // No process can be had now (EAGAIN, ENOMEM): what runs runs on.
            startAt = now + .milliseconds(100)
        }
    }

    private mutating func supervisorEnded(_ status: ExitStatus) {
        takeMessages()
        supervisor = nil
        let now = MonotonicInstant.now
        if case .sweeping = phase { return }
        if hasFinished { return sweep(status: status.code, at: now) }
        switch restart.ended(status, at: now) {
        case .start(let delay):
            try? parent.send(.note("the supervisor was ended by \(status): another takes over"))
            startAt = now + delay
        case .giveUp:
            try? parent.send(.note("the supervisor was ended by \(status): everything is stopped"))
            sweep(status: status.code, at: now)
        }
    }

    private mutating func takeMessages() {
        while case .message(let message, let descriptor) = KeeperMessage.receive(from: ours.number) {
            switch message {
            case .keep(let key) where descriptor >= 0: store.keep(key, descriptor)
            case .discard(let key): store.discard(key)
            case .ready: restart.becameReady()
            case .finished: hasFinished = true
            default: break
            }
        }
    }

    /// Tells the supervisor what it is yet to know, as far as it listens.
    private mutating func deliver() {
        guard supervisor != nil else { return }
        while nextKept < store.count, !hasAllKept {
            let (key, number) = store.entry(nextKept)
            guard KeeperMessage.kept(key).send(over: ours.number, descriptor: number) else { return }
            nextKept += 1
        }
        if !hasAllKept {
            guard KeeperMessage.allKept.send(over: ours.number) else { return }
            hasAllKept = true
        }
        while pendingSignals != 0 {
            let bit = pendingSignals.trailingZeroBitCount
            guard KeeperMessage.signal(Signal(rawValue: Int32(bit) + 1)).send(over: ours.number) else { return }
            pendingSignals &= ~(1 << UInt64(bit))
        }
    }

    // MARK: signals and children

    private mutating func takeSignals() {
        while let (signal, _) = signals.next() {
            if signal == .child { continue }
            pendingSignals |= 1 << UInt64(signal.rawValue - 1)
            if case .running = phase, signal == .terminate || signal == .interrupt {
                phase = .stopping(deadline: MonotonicInstant.now + plan.stopGrace)
            }
        }
    }

    /// Collects ended children; the exit code when there are none left to wait for.
    private mutating func reapChildren() -> UInt8? {
        while true {
            if let pid = supervisor, case .ended(_, let status) = reap(pid) { supervisorEnded(status) }
            switch reap(alsoStopped: true, leaving: true) {
            case .ended(let pid, _) where pid == supervisor: continue
            case .ended(let pid, let status):
                guard pass(.ended(pid: pid, status)) else { return nil }
                reap(pid)
            case .stopped(let pid) where pid == supervisor: reap(pid, alsoStopped: true)
            case .stopped(let pid):
                guard pass(.stopped(pid: pid)) else { return nil }
                reap(pid, alsoStopped: true)
            case .noChildren:
                if case .sweeping(let status, _, _) = phase { return status }
                return nil
            case .nothingYet: return nil
            }
        }
    }

    /// Tells the supervisor of a child. False when it is to be told later.
    private mutating func pass(_ message: KeeperMessage) -> Bool {
        if case .sweeping = phase { return true }
        // The descriptors come first: what they are is known before what ended.
        return hasAllKept && supervisor != nil && message.send(over: ours.number)
    }

    /// Signals every process of the workspace but this one. In a shared PID namespace kill(-1) would reach the
    /// container's processes too: there, only our descendants count, which all are ours because we are their subreaper.
    private func signalEveryone(_ signal: Signal) {
        guard !plan.isolation.hasOwnProcesses else {
            send(signal, to: -1)
            return
        }
        for pid in Descendants.all() { send(signal, to: pid) }
    }
}
