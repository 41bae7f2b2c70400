internal import Kernel
internal import SystemPackage

/// The forwarder as a process of ring0's.
public enum SlirpProcess {
    /// The whole life of the process. Returns the exit code.
    ///
    /// It is configured over the channel at `channel`, reports there, and ends when ring0 closes it.
    public static func main(channel number: Int32) -> UInt8 {
        CurrentProcess.setName("slirp")
        let channel = Channel(Descriptor(OwnedDescriptor(owning: number)))
        do {
            ignore(.pipe)
            let descriptors = CurrentProcess.raiseOpenFilesLimit()
            guard let message = try channel.receive(within: .seconds(5)),
                var configuration = SlirpConfiguration(message)
            else { return 70 }
            configuration.descriptorLimit = descriptors
            configuration.processors = MachineLimits.current.processors
            do { try Sandbox.leaveFileSystem() } catch {
                // Where user namespaces cannot be nested the forwarder still has no privilege and few calls.
                try channel.send(SlirpReport.note("it keeps the container's root: \(error)").message)
            }
            try Sandbox.dropPrivileges()
            // These changes of credentials cleared it (prctl(2)).
            try CurrentProcess.setDeathSignal(.kill)
            var forwarder = try Forwarder(
                configuration, tap: message.descriptors[0],
                listeners: SocketDiagnosis(descriptor: message.descriptors[1]), table: message.descriptors[2],
                report: channel)
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
