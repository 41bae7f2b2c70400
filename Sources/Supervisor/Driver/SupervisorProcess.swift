public import Kernel

/// The supervisor as a process of ring2's.
public enum SupervisorProcess {
    /// What every supervisor of a workspace finds its plan in, and leaves its state in for the next one: a file in memory.
    public static func state(for plan: SupervisorPlan) throws(KernelError) -> Descriptor {
        try SavedState.file(for: plan)
    }

    /// The whole life of the process. Returns the workspace's exit code.
    ///
    /// - Parameters:
    ///   - keeper: the descriptor of the channel to ring2 (``KeeperMessage``).
    ///   - state: the descriptor of the file that ``state(for:)`` made.
    ///   - report: the descriptor of the channel to ring0.
    public static func main(keeper: Int32, state: Int32, report: Int32) -> UInt8 {
        CurrentProcess.setName("supervisor")
        do {
            try CurrentProcess.setDeathSignal(.kill)
            let supervisor = try Supervisor(
                SavedState(Descriptor(OwnedDescriptor(owning: state))),
                keeper: Keeper(Descriptor(OwnedDescriptor(owning: keeper))),
                report: Channel(Descriptor(OwnedDescriptor(owning: report))))
            return try supervisor.run()
        } catch {
            let errors = StandardOutput(2, name: "standard error")
            errors.append("workspacekit: supervisor: \(error)\n")
            errors.finish(within: .milliseconds(500))
            return error.isShortage ? ExitStatus.temporaryFailure : 70
        }
    }
}
