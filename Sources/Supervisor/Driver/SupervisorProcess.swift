internal import Kernel

/// The supervisor as a process of ring2's.
public enum SupervisorProcess {
    /// The whole life of the process. Returns the workspace's exit code.
    ///
    /// - Parameters:
    ///   - configuration: the descriptor of the memory file with the ``SupervisorPlan``.
    ///   - report: the descriptor of the channel to ring0.
    public static func main(configuration: Int32, report: Int32) -> UInt8 {
        CurrentProcess.setName("supervisor")
        do {
            try CurrentProcess.setDeathSignal(.kill)
            let bytes = try readWhole(configuration)
            guard let plan = SupervisorPlan(decoding: bytes) else { return 70 }
            let supervisor = try Supervisor(
                plan, report: Channel(Descriptor(OwnedDescriptor(owning: report))))
            return try supervisor.run()
        } catch {
            writeLine("workspacekit: supervisor: \(error)\n", to: 2)
            return 70
        }
    }

    private static func readWhole(_ descriptor: Int32) throws(KernelError) -> [UInt8] {
        // The memory file's offset is shared with whoever wrote it; its path starts anew.
        try Files.read("/proc/self/fd/\(descriptor)", limit: 4 << 20)
    }
}
