public import Kernel
internal import SystemPackage

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
    ///   - namespaces: descriptors of the workspace's namespaces in the order in which units enter them; they are open only where
    ///     the workspace has namespaces.
    public static func main(keeper: Int32, state: Int32, report: Int32, namespaces: [Int32]) -> UInt8 {
        CurrentProcess.setName("supervisor")
        do throws(KernelError) {
            let saved = SavedState(Descriptor(OwnedDescriptor(owning: state)))
            guard let plan = saved.plan() else {
                throw KernelError(call: "read", subject: "the configuration from ring0", errno: .badMessage)
            }
            if plan.hasNamespaces {
                // It is a user whom the workspace does not have; what it makes belongs to the workspace's root.
                try CurrentProcess.setFileUser(0)
                CurrentProcess.setDumpable(true)
            }
            try CurrentProcess.setDeathSignal(.kill)
            let supervisor = try Supervisor(
                saved, plan, namespaces: plan.hasNamespaces ? namespaces : [],
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
