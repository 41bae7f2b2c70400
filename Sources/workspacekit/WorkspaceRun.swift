internal import Config
internal import Control
internal import Glibc
internal import Kernel
internal import Ring
internal import Slirp
internal import Supervisor
internal import SystemPackage
internal import TerminalText

/// # Theory of operation
///
/// ring0: PID 1 of the container, or a program on one's own machine. It reads the configuration, starts the rings and
/// the forwarder, and then only relays signals, reaps, restarts the forwarder, and ends with the workspace's status.
///
/// Everything that can be wrong with what the user gave is found before anything is started or written. The budget of a
/// stop is nested: the supervisor's part ends before ring2's, ring2's before ring0's, all within `shutdown.grace`.
final class WorkspaceRun {
    private let configurationFile: String?
    private let networkOption: NetworkMode?
    let workspaceDirectory: String
    let state: StateDirectory
    private let command: [String]
    private let start: StartKind
    private let leastIsolation: Isolation
    private let allowsMachineRoot: Bool
    private let startedAt = MonotonicInstant.now
    /// What the container reaches in a way of its own, when the workspace starts.
    private let containerNetworks = (try? RoutedNetwork.all()) ?? []
    private var lock: Descriptor?
    /// The state directory itself, whatever its path leads to later.
    private var stateDescriptor: Descriptor?

    init(
        configurationFile: String?, network: NetworkMode?, workspaceDirectory: String, state: StateDirectory,
        command: [String] = [], start: StartKind = .run, leastIsolation: Isolation = .superviseOnly,
        allowsMachineRoot: Bool = false
    ) {
        self.allowsMachineRoot = allowsMachineRoot
        self.leastIsolation = leastIsolation
        self.configurationFile = configurationFile
        networkOption = network
        self.workspaceDirectory = Files.absolute(workspaceDirectory)
        self.state = state
        self.command = command
        self.start = start
    }

    /// Standard output is somebody else's.
    private var isQuiet: Bool { !command.isEmpty || start == .prebuildJSON }

    /// The whole life of the workspace; the exit code.
    func run() -> Int32 {
        CurrentProcess.setName("ring0")
        ignore(.pipe)
        guard Files.isDirectory(workspaceDirectory) else {
            fail(
                "the workspace directory \(workspaceDirectory) does not exist: name another with --workspace",
                ExitCodes.usage)
        }
        let (sources, files) = readConfiguration()
        let configuration = check(sources)
        let mode = networkMode(configuration)
        if mode == .host, !configuration.network.egress.isEmpty {
            fail(
                "network.egress cannot be enforced in the container's own network: leave out --network host, or the rules",
                ExitCodes.configuration)
        }
        let filesystem = filesystemPlan(configuration, mode, files)
        let grace = configuration.stopGrace ?? .seconds(8)
        takeStateDirectory()
        defer { leaveStateDirectory() }
        do {
            let (reportReading, reportWriting) = try Channel.pair()
            var plan = SupervisorPlan(
                sources: sources, files: files, workspaceDirectory: workspaceDirectory, stateDirectory: state.path,
                command: command, start: start, isQuiet: isQuiet,
                budget: max(grace - .milliseconds(1500), .milliseconds(200)))
            let plannedNetwork = mode == .sandbox ? plannedNetwork(configuration) : nil
            let files = plannedNetwork.map { containerFiles(configuration, $0.layout) }
            let ringPlan = ringPlan(configuration, mode, grace, plannedNetwork, files, filesystem)
            /// What the supervisor is told, which depends on what could be had.
            func supervisorState(_ rings: RingPlan) throws -> Descriptor {
                plan.isolation = rings.isolation.rawValue
                plan.outside = Files.status("/proc/self/ns/user")?.identity ?? ""
                plan.link = rings.link.map { link in
                    WorkspaceLink(
                        name: link.name, mtu: link.mtu, queueLength: link.queueLength, addresses: link.addresses,
                        routes: link.routes, containerNetworks: containerNetworks)
                }
                return try SupervisorProcess.state(for: plan)
            }
            let session = WorkspaceSession(
                ringPlan: ringPlan, stateHandover: stateDescriptor.map { StateHandover($0) }, grace: grace,
                startedAt: startedAt, isQuiet: isQuiet,
                forwarder: forwarderPlan(configuration, ringPlan, plannedNetwork, files), containerFiles: files,
                leastIsolation: leastIsolation)
            return try session.run(
                supervisorState: supervisorState, reportReading: reportReading, reportWriting: reportWriting)
        } catch let failure as StageFailure {
            say("\(failure)")
            return ExitCodes.setUp
        } catch let degradation as Degradation {
            say("\(degradation)")
            return ExitCodes.setUp
        } catch {
            say("ring0: \(error)")
            return ExitCodes.setUp
        }
    }

    // MARK: what the user gave

    private func readConfiguration() -> (sources: [Source], files: ConfigurationFiles) {
        let files = ConfigurationFiles(
            path: configurationFile ?? workspaceDirectory + "/.gitpod.yml", name: configurationFile ?? ".gitpod.yml",
            isNamed: configurationFile != nil)
        do {
            let sources = try files.read(required: configurationFile != nil)
            if sources.isEmpty {
                say(
                    "no .gitpod.yml in \(workspaceDirectory): a workspace without tasks (\"workspacekit config init\" writes one)"
                )
            }
            return (sources, files)
        } catch {
            fail("\(error)", ExitCodes.configuration)
        }
    }

    /// Reads the configuration and prints what is wrong with it; errors end the program.
    private func check(_ sources: [Source]) -> WorkspaceConfiguration {
        let neighbours = networkOption ?? .sandbox == .sandbox ? containerNetworks : []
        let reading = Reading(sources, on: .system, workspace: workspaceDirectory, beside: neighbours)
        for text in reading.rendered(notes: false, colour: hasColour(2)) { printOutsideLoop(text + "\n") }
        if reading.hasErrors { quit(ExitCodes.configuration) }
        return reading.configuration
    }

    private func networkMode(_ configuration: WorkspaceConfiguration) -> NetworkMode {
        if let networkOption { return networkOption }
        if let mode = configuration.network.mode.flatMap({ NetworkMode(rawValue: $0) }) { return mode }
        return configuration.experimentalNetwork == false ? .host : .sandbox
    }

    // MARK: plans

    /// The workspace's addresses, and its interface's.
    private struct PlannedNetwork {
        let layout: NetworkLayout
        let own: InterfaceNetwork
    }

    private func plannedNetwork(_ configuration: WorkspaceConfiguration) -> PlannedNetwork {
        let network = configuration.network
        let cidr = network.cidr.flatMap { Subnet($0) }
        let ipv6 = network.ipv6 ?? true
        if network.addresses == "copy" {
            let own = try? InterfaceNetwork.ofDefaultRoute()
            let services = NetworkChoice(cidr: cidr, besideCopies: true, taken: containerNetworks)
            if var own, let layout = NetworkLayout(copying: own, services: services, ipv6: ipv6) {
                if !ipv6 {
                    own.addresses.removeAll { !$0.address.isV4 }
                    own.routes.removeAll { !$0.destination.address.isV4 }
                }
                return PlannedNetwork(layout: layout, own: own)
            }
            say("network.addresses: the container has no default route to copy: the workspace has addresses of its own")
        }
        let choice = NetworkChoice(cidr: cidr, taken: containerNetworks)
        for network in choice.hidden where ipv6 || network.subnet.address.isV4 {
            say("the workspace cannot reach the container's \(network), as no network is free for its own addresses")
        }
        let layout = NetworkLayout(subnet4: choice.subnet4, subnet6: choice.subnet6, ipv6: ipv6)
        var own = InterfaceNetwork(
            addresses: [Subnet(layout.guest4, layout.subnet4.length)], routes: [.default(via: layout.gateway4)])
        if let subnet6 = layout.subnet6 {
            own.addresses.append(Subnet(layout.guest6, subnet6.length))
            own.routes.append(.default(via: layout.gateway6))
        }
        return PlannedNetwork(layout: layout, own: own)
    }

    private var hostName: String {
        Files.text("/proc/sys/kernel/hostname").map { $0.filter { !$0.isNewline } } ?? "workspace"
    }

    private func containerFiles(_ configuration: WorkspaceConfiguration, _ layout: NetworkLayout) -> ContainerFiles {
        ContainerFiles(
            ContainerFiles.Inside(
                nameServer: layout.nameServer4, gateway: layout.gateway4, hostName: hostName,
                keepsAddress: layout.isCopied, searchDomains: configuration.network.searchDomains),
            configured: configuration.network.nameServers.compactMap { NameServer($0) })
    }

    private func ringPlan(
        _ configuration: WorkspaceConfiguration, _ mode: NetworkMode, _ grace: Duration, _ network: PlannedNetwork?,
        _ files: ContainerFiles?, _ filesystem: FilesystemPlan
    ) -> RingPlan {
        var plan = RingPlan(
            network: mode, stagingDirectory: state.rings, hostName: hostName, supervisor: ["supervise"],
            stopGrace: max(grace - .milliseconds(500), .milliseconds(500)))
        plan.filesystem = filesystem
        plan.isConfined = isConfined(configuration, mode)
        plan.commands = state.commands
        maskMachine(&plan)
        guard let network else { return plan }
        var link = LinkPlan(addresses: network.own.addresses, routes: network.own.routes)
        link.mtu = configuration.network.mtu ?? 1500
        link.gso = configuration.network.gso ?? true
        link.kind = configuration.network.link.flatMap { LinkKind(rawValue: $0) } ?? .auto
        plan.link = link
        plan.resolvConf = files?.texts[ContainerFiles.resolverPath]
        plan.hosts = files?.texts[ContainerFiles.hostsPath]
        return plan
    }

    /// Where root inside would be the machine's root, the machine's files are kept from it, unless the user wants otherwise.
    private func maskMachine(_ plan: inout RingPlan) {
        guard Ring0.mapsMachineRoot else { return }
        if allowsMachineRoot {
            return say(
                "--allow-machine-root: root inside can change this machine's settings and lift this container's limits")
        }
        plan.masksMachine = true
        plan.isolation = .masked
    }

    private func forwarderPlan(
        _ configuration: WorkspaceConfiguration, _ plan: RingPlan, _ network: PlannedNetwork?, _ files: ContainerFiles?
    ) -> ForwarderPlan? {
        guard let link = plan.link, let network, let files else {
            if !configuration.network.forwards.isEmpty {
                say("network.forwards has no effect: this workspace has no network of its own")
            }
            return nil
        }
        return ForwarderPlan(
            layout: network.layout, mtu: link.mtu, ports: DeclaredPorts(configuration),
            portsAtStart: PortSet(DeclaredPorts(configuration)),
            nameServers: files.servers,
            loopbackExceptions: configuration.network.hostLoopback.map {
                LoopbackException(port: $0.port, isUDP: $0.isUDP)
            }, forwards: configuration.network.forwards, egress: EgressPolicy(configuration.network.egress),
            searchDomains: files.searchDomains)
    }

    // MARK: the state directory

    private func takeStateDirectory() {
        do {
            lock = try lockStateDirectory()
            try Files.makeDirectory(state.rings, mode: 0o755)
        } catch {
            fail("\(error): name a directory you may write with --state-dir", ExitCodes.setUp)
        }
    }

    /// Makes the directory and locks it. A workspace that ends removes both, which may happen between any two steps here.
    private func lockStateDirectory() throws(KernelError) -> Descriptor {
        var failure = KernelError(call: "lock", subject: state.path, errno: .resourceBusy)
        for _ in 0..<100 {
            // Other users of the workspace find the control socket and gp in it, and nothing else.
            try Files.makeDirectories(state.path, mode: 0o711)
            let directory: Descriptor
            do { directory = try state.open(ownedBy: [CurrentProcess.effectiveUser]) } catch {
                if error == .missing { continue }
                fail("\(error)", ExitCodes.usage)
            }
            let own = StateDirectory("/proc/self/fd/\(directory.number)")
            let lock: Descriptor
            do { lock = try Files.openForAppending(own.lock, mode: 0o600) } catch {
                guard error.errno == .noSuchFileOrDirectory else { throw error }
                failure = error
                continue
            }
            guard Files.lock(lock) else {
                fail(
                    "another workspace runs at \(state.path): stop it, or give this one a place of its own with --state-dir",
                    ExitCodes.usage)
            }
            // The file that was locked may have been removed meanwhile: then another one counts.
            let locked = Files.status("/proc/self/fd/\(lock.number)")
            if let locked, locked.inode == Files.status(state.lock, followLinks: false)?.inode {
                stateDescriptor = directory
                return lock
            }
        }
        throw failure
    }

    /// The logs stay; all else goes.
    private func leaveStateDirectory() {
        guard let stateDescriptor else { return }
        // What is in it may be anything by now: no link is followed.
        let own = StateDirectory("/proc/self/fd/\(stateDescriptor.number)")
        try? Files.remove(own.socket)
        if let commands = try? Files.reference(directory: own.commands, followLinks: false) {
            for name in ["gp", StateDirectory.ownPathName] {
                try? Files.remove("/proc/self/fd/\(commands.number)/\(name)")
            }
            withExtendedLifetime(commands) {}
        }
        Files.removeDirectory(own.commands)
        Files.removeDirectory(own.rings)
        try? Files.remove(own.lock)
        StateHandover(stateDescriptor).takeBack()
        Files.removeDirectory(state.path)
        withExtendedLifetime(stateDescriptor) {}
    }
}

/// Prints a message of ours, a hint on a line of its own. What it quotes may come from inside the workspace.
func say(_ text: String) { printOutsideLoop(noticeText(text)) }

/// A message of ours as a terminal may show it.
func noticeText(_ text: String) -> String {
    "workspacekit: " + text.split(separator: "\n").map { visibleText(String($0)) }.joined(separator: "\n") + "\n"
}

/// Prints to standard error before or after a loop. A reader that has paused is waited for, but not for ever: PID 1 has to
/// come to its loop, and to its end.
func printOutsideLoop(_ text: String) {
    let errors = StandardOutput(2, name: "standard error")
    errors.append(text)
    errors.finish(within: .seconds(1))
}
