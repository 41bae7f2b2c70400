internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// PID 1 of the workspace. Its death ends every process in it, so it does next to nothing: it makes the new root the
/// root, starts the supervisor, and then only reaps, relays signals, and ends what is left. Its loop allocates nothing.
///
///     running ── supervisor ended ──────────────▶ sweeping(SIGTERM sent) ── grace over ──▶ SIGKILL ──▶ exit
///        └───── asked to stop, stopGrace over ──▶ kill the supervisor ─┘
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
            try setHostName(plan.hostName)
            try RootFilesystem(root: plan.stagingDirectory, plan: plan, note: { try? channel.send(.note($0)) }).enter()
            CurrentProcess.raiseOpenFilesLimit()
            try channel.send(.ready)
            // ring0 answers once the forwarder is up.
            guard case .go? = try channel.next(within: .seconds(30)) else { return 71 }
            let supervisor = try startSupervisor(plan)
            CurrentProcess.closeDescriptors(
                from: StageDescriptor.configuration, except: [channel.descriptor.number, signals.number])
            return try live(supervisor, plan, channel, signals)
        } catch {
            try? channel.send(.failed(StageFailure("ring2", error)))
            return 71
        }
    }

    private static func startSupervisor(_ plan: RingPlan) throws(KernelError) -> Int32 {
        var spawnPlan = SpawnPlan(
            path: "/proc/self/exe", arguments: ["workspacekit"] + plan.supervisor, environment: currentEnvironment(),
            // Standard streams, nothing, the configuration, the report channel: the numbers of StageDescriptor.
            descriptors: [0, 1, 2, 2, StageDescriptor.configuration, StageDescriptor.report])
        spawnPlan.deathSignal = .kill
        return try spawn(spawnPlan)
    }

    private enum Phase {
        case running
        case stopping(deadline: MonotonicInstant)
        case sweeping(status: UInt8, deadline: MonotonicInstant, killed: Bool)
    }

    private static func live(
        _ supervisor: Int32, _ plan: RingPlan, _ parent: Channel, _ signals: borrowing SignalReader
    ) throws(KernelError) -> UInt8 {
        let poller = try Poller()
        try poller.add(signals.number, .readable, token: 0)
        try poller.add(parent.descriptor.number, .readable, token: 1)
        var phase = Phase.running
        while true {
            let now = MonotonicInstant.now
            var timeout: Duration?
            switch phase {
            case .running: break
            case .stopping(let deadline):
                timeout = deadline - now
                if deadline <= now {
                    send(.kill, to: supervisor)
                    phase = .stopping(deadline: now + .seconds(1))
                    continue
                }
            case .sweeping(let status, let deadline, let killed):
                timeout = deadline - now
                if deadline <= now {
                    if killed { return status }
                    signalEveryone(.kill, plan)
                    phase = .sweeping(status: status, deadline: now + .seconds(1), killed: true)
                    continue
                }
            }
            let count = try poller.wait(timeout)
            for index in 0..<count {
                if poller.event(index).token == 1 { return 70 }  // ring1 is gone
                while let (signal, _) = signals.next() {
                    if signal == .child { continue }
                    send(signal, to: supervisor)
                    if case .running = phase, signal == .terminate || signal == .interrupt {
                        phase = .stopping(deadline: MonotonicInstant.now + plan.stopGrace)
                    }
                }
            }
            reaping: while true {
                switch reap() {
                case .ended(let pid, let status):
                    guard pid == supervisor else { continue }
                    if case .signalled = status {
                        try? parent.send(.note("the supervisor was ended by \(status): everything is stopped"))
                    }
                    signalEveryone(.terminate, plan)
                    phase = .sweeping(
                        status: status.code, deadline: MonotonicInstant.now + plan.strayGrace, killed: false)
                case .noChildren:
                    if case .sweeping(let status, _, _) = phase { return status }
                    break reaping
                case .nothingYet, .stopped: break reaping
                }
            }
        }
    }

    /// Signals every process of the workspace but this one. In a shared PID namespace kill(-1) would reach the
    /// container's processes too: there, only our descendants count, which all are ours because we are their subreaper.
    private static func signalEveryone(_ signal: Signal, _ plan: RingPlan) {
        guard plan.sharesProcesses else {
            send(signal, to: -1)
            return
        }
        var pending = [CurrentProcess.id]
        var visited = 0
        while let parent = pending.popLast(), visited < 100_000 {
            visited += 1
            let children = (Files.text("/proc/\(parent)/task/\(parent)/children") ?? "").split(separator: " ")
            for child in children.compactMap({ Int32($0) }) {
                pending.append(child)
                send(signal, to: child)
            }
        }
    }
}
