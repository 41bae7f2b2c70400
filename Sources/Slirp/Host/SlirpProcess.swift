public import Kernel
internal import SystemPackage

/// The forwarder as a process of ring0's.
public enum SlirpProcess {
    /// Starts the process; it waits for its configuration, so that it is there when that is.
    public static func start() throws(KernelError) -> (pid: Int32, channel: Channel) {
        let (ours, theirs) = try Channel.pair()
        var plan = SpawnPlan(
            path: "/proc/self/exe", arguments: ["workspacekit", "slirp"], environment: [],
            descriptors: [0, 2, 2, theirs.descriptor.number])
        plan.deathSignal = .kill
        plan.newGroup = true  // the terminal's interrupt key is not for it
        let pid = try spawn(plan)
        withExtendedLifetime(theirs) {}
        return (pid, ours)
    }

    /// The whole life of the process. Returns the exit code.
    ///
    /// It is configured over the channel at `channel`, reports there, and ends when ring0 closes it.
    public static func main(channel number: Int32) -> UInt8 {
        CurrentProcess.setName("slirp")
        let channel = Channel(Descriptor(OwnedDescriptor(owning: number)))
        do {
            ignore(.pipe)
            let descriptors = CurrentProcess.raiseOpenFilesLimit()
            let processors = MachineLimits.current.processors
            // All that needs no configuration comes before it, while whoever sends it makes the link.
            do { try Sandbox.leaveFileSystem() } catch {
                // Where user namespaces cannot be nested the forwarder still has no privilege and few calls.
                try channel.send(SlirpReport.note("it keeps the container's root: \(error)").message)
            }
            try Sandbox.dropPrivileges()
            // These changes of credentials cleared it (prctl(2)).
            try CurrentProcess.setDeathSignal(.kill)
            guard var message = try channel.receive(within: .seconds(60)) else { return 70 }
            var lost: LostConnections?
            if let table = SlirpConfiguration.previousTable(message) {
                lost = LostConnections(table)
                guard let next = try channel.receive(within: .seconds(60)) else { return 70 }
                message = next
            }
            guard var configuration = SlirpConfiguration(message) else { return 70 }
            configuration.descriptorLimit = descriptors
            configuration.processors = processors
            var forwarder = try Forwarder(
                configuration, tap: message.descriptors[0],
                listeners: SocketDiagnosis(descriptor: message.descriptors[1]),
                routes: message.descriptors.count > 3 ? RouteQuery(descriptor: message.descriptors[3]) : nil,
                table: message.descriptors[2], report: channel)
            forwarder.lost = lost
            try Sandbox.allowForwarderCallsOnly()
            try channel.send(SlirpReport.ready.message)
            try forwarder.run()
            return 0
        } catch {
            try? channel.send(SlirpReport.note("\(error)").message)
            return 70
        }
    }
}
