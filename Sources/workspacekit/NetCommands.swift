internal import ArgumentParser
internal import Control
internal import Kernel
internal import Slirp

struct Net: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Look at the workspace's network, and mend it.",
        subcommands: [Status.self, Flows.self, Forwards.self, Rules.self, Capture.self, Reset.self],
        defaultSubcommand: Status.self)

    struct Status: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the link, and what is not as it was made.",
            discussion: """
                Exit code 0; 1 when something is not as it was made, which net reset mends.

                  workspacekit net status
                """)
        @OptionGroup var state: StateOption
        @Flag(help: "As JSON.") var json = false

        func run() {
            guard var link = require(connect(state.directory).ask(ControlRequest(.netStatus))).link else {
                fail("the workspace sent no link", ExitCodes.internalError)
            }
            link.hidden = hiddenNetworks(of: link)
            show(link, json: json)
            if !link.problems.isEmpty {
                let isMendable = !link.problems.allSatisfy { $0.hasSuffix(WorkspaceStatus.restartCure) }
                if !json, isMendable { say("\"workspacekit net reset\" mends it") }
                quit(1)
            }
        }
    }

    struct Reset: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Put back the link, its addresses and routes, and resolv.conf, as they were made.",
            discussion: """
                The loopback and the rules that every network begins with (ip rule) are put back too; everything else stays. \
                Returns when packets pass again. Exit code 0; 1 when something cannot be mended.

                  workspacekit net reset
                """)
        @OptionGroup var state: StateOption
        @Flag(help: "What there is afterwards, as JSON.") var json = false
        /// The kernel takes a moment to receive at a new address. What is not mended within half a second cannot be.
        private static let tries = 100, pauseBetween = Duration.milliseconds(5)

        func run() {
            let client = connect(state.directory)
            var link: LinkStatus?
            for _ in 0..<Self.tries {
                link = require(client.ask(ControlRequest(.netReset))).link
                if link?.problems.isEmpty != false { break }
                pause(Self.pauseBetween)
            }
            guard let link else { fail("the workspace sent no link", ExitCodes.internalError) }
            show(link, json: json)
            if !link.problems.isEmpty { quit(1) }
        }
    }

    struct Rules: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show where the workspace may connect to, and what each rule has decided.",
            discussion: """
                A rule that denies comes before every rule that allows; what no rule speaks of is decided by the last line. \
                FLOWS were decided by the rule since the forwarder started.

                  workspacekit net rules
                  workspacekit net rules --json | jq '.[] | select(.action == "deny").flows'
                """)
        @OptionGroup var state: StateOption
        @Flag(help: "As JSON.") var json = false

        func run() {
            ignore(.pipe)
            guard let (_, table) = readTable(connect(state.directory)) else {
                fail("the workspace sent no rules", ExitCodes.internalError)
            }
            let now = MonotonicInstant.now
            // As they are decided: what is built in, what denies, what allows, and the default.
            let ordered = table.rules.dropFirst().filter(\.isBuiltIn) + table.rules.filter { !$0.isBuiltIn }
            let rows = (ordered + table.rules.prefix(1)).map { RuleRow($0, at: now) }
            if json { return print(prettyJSON(rows)) }
            printTable(
                [["ACTION", "RULE", "FLOWS", "LAST"]]
                    + rows.map { row in
                        [
                            row.action, row.rule, "\(row.flows)",
                            ago(row.lastSecondsAgo),
                        ]
                    })
        }
    }

    struct Forwards: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show which ports of the container lead inside, and who came.",
            discussion: """
                A port that is declared or in network.forwards is open while something listens inside. Clients from the \
                container's own loopback are joined to the workspace's; a server that listens on 127.0.0.1 only is reached by \
                them only.

                  workspacekit net forwards
                  workspacekit net forwards --json | jq '.[] | select(.state != "open").outside'
                """)
        @OptionGroup var state: StateOption
        @Flag(help: "As JSON.") var json = false

        func run() {
            ignore(.pipe)
            let client = connect(state.directory)
            let ports = require(client.ask(ControlRequest(.ports))).ports ?? []
            guard let (_, table) = readTable(client) else {
                fail("the workspace sent no forwards", ExitCodes.internalError)
            }
            let rows = ForwardRow.all(table.forwards, ports, at: .now)
            if json { return print(prettyJSON(rows)) }
            printTable(
                [["PROTO", "OUTSIDE", "INSIDE", "STATE", "ORIGIN", "CLIENTS", "LAST"]]
                    + rows.map { row in
                        [
                            row.transport, row.outside, row.inside, row.state, row.origin, "\(row.clients)",
                            ago(row.lastSecondsAgo),
                        ]
                    })
        }
    }

    struct Flows: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what is connected through the forwarder, and who inside owns it.",
            discussion: """
                UP is what went out of the workspace, DOWN what came; RTT is how far away the outside is. --json has how soon \
                the workspace acknowledges too, and the rule of network.egress that admitted the flow.

                  workspacekit net flows
                  workspacekit net flows --watch
                  workspacekit net flows --json | jq '.flows[] | select(.unit == "web").remote'
                """)
        @OptionGroup var state: StateOption
        @Flag(help: "As JSON, with the forwarder's counters.") var json = false
        @Flag(help: "Again each second, until the workspace ends.") var watch = false

        func validate() throws {
            if watch, json { throw ValidationError("--watch or --json, not both") }
        }

        func run() {
            ignore(.pipe)
            let client = connect(state.directory)
            guard var report = FlowReport(client) else { fail("the workspace sent no flows", ExitCodes.internalError) }
            if json { return print(prettyJSON(report)) }
            writeOut(Array(report.text.utf8)[...])
            while watch {
                pause(.seconds(1))
                guard let next = FlowReport(client) else { return }
                report = next
                writeOut(Array(("\n" + report.text).utf8)[...])
            }
        }
    }
}

private func show(_ link: LinkStatus, json: Bool) {
    if json { return print(prettyJSON(link)) }
    var rows = [
        ["Link", "\(link.name), MTU \(link.mtu)"], ["Addresses", link.addresses.joined(separator: " ")],
        ["Gateways", link.gateways.joined(separator: " ")],
    ]
    if let hidden = link.hidden, !hidden.isEmpty {
        rows.append(["Hidden", hidden.joined(separator: ", ") + ": not reached from inside"])
    }
    rows.append(["State", link.problems.isEmpty ? "as it was made" : link.problems.joined(separator: "; ")])
    printTable(rows)
}

/// The container's networks that the workspace's hide, as they are now: a route may have come after the start. nil where the
/// caller shares the workspace's addresses: it is inside, or they are copies of the container's.
private func hiddenNetworks(of link: LinkStatus) -> [String]? {
    let own = link.addresses.compactMap { Subnet($0) }
    guard let reached = try? RoutedNetwork.all() else { return nil }
    let addresses = Set(reached.map(\.subnet).filter { $0.length == ($0.address.isV4 ? 32 : 128) }.map(\.address))
    if own.contains(where: { addresses.contains($0.address) }) { return nil }
    return reached.filter { network in own.contains { $0.overlaps(network.subnet) } }.map(\.description)
}

/// The forwarder's table and who owns the flows; nil when there was no answer that makes sense. Ends the program at a
/// refusal.
private func readTable(_ client: ControlClient) -> (owners: [FlowOwner], table: ForwarderSnapshot)? {
    guard let owners = require(client.ask(ControlRequest(.netFlows))).owners,
        let file = client.connection.received.popLast(), let table = ForwarderTable.read(file)
    else { return nil }
    client.connection.received = []
    return (owners, table)
}

/// What `net rules` shows.
private struct RuleRow: Encodable {
    let action: String, rule: String
    let flows: UInt64
    let lastSecondsAgo: Double?
    let isBuiltIn: Bool

    init(_ rule: RuleSnapshot, at now: MonotonicInstant) {
        action = rule.allows ? "allow" : "deny"
        self.rule = rule.text
        flows = rule.flows
        lastSecondsAgo = rule.lastAt.map { max(0, Double((now - $0).nanoseconds / 1_000_000) / 1000) }
        isBuiltIn = rule.isBuiltIn
    }
}

/// What `net forwards` shows.
private struct ForwardRow: Encodable {
    let transport: String, outside: String, inside: String, state: String, origin: String
    let clients: UInt64
    let lastSecondsAgo: Double?

    /// What there is, and ports that are declared and wait for a server.
    static func all(_ forwards: [ForwardSnapshot], _ ports: [PortStatus], at now: MonotonicInstant) -> [ForwardRow] {
        let open = forwards.sorted {
            ($0.outside.port, $0.isUDP ? 1 : 0, $0.outside.description)
                < ($1.outside.port, $1.isUDP ? 1 : 0, $1.outside.description)
        }
        let waiting = ports.filter { port in
            port.isDeclared && !port.isListening && !forwards.contains { $0.outside.port == port.port && !$0.isUDP }
        }
        return open.map { ForwardRow($0, at: now) }
            + waiting.map {
                ForwardRow(
                    transport: $0.transport, outside: "*:\($0.port)", inside: "\($0.port)",
                    state: Self.refusing, origin: "declared", clients: 0, lastSecondsAgo: nil)
            }
    }

    private static let refusing = "nothing listens inside"
}

extension ForwardRow {
    fileprivate init(_ forward: ForwardSnapshot, at now: MonotonicInstant) {
        let isEverywhere = forward.outside.address == .any6 || forward.outside.address == .any4
        let place = isEverywhere ? "*:\(forward.outside.port)" : "\(forward.outside)"
        transport = forward.isUDP ? "udp" : "tcp"
        outside = place + (forward.interface.map { " by \($0)" } ?? "")
        inside = forward.insideAddress.map { "\(Endpoint($0, forward.insidePort))" } ?? "\(forward.insidePort)"
        switch forward.state {
        case .open: state = "open"
        case .refusing: state = Self.refusing
        case .failed(let why): state = "failed: \(why)"
        }
        switch forward.origin {
        case .declared: origin = "declared"
        case .configured: origin = "network.forwards"
        case .requested: origin = "API"
        }
        clients = forward.clients
        lastSecondsAgo = forward.lastAt.map { max(0, Double((now - $0).nanoseconds / 1_000_000) / 1000) }
    }
}

/// What `net flows` shows.
private struct FlowReport: Encodable {
    struct Row: Encodable {
        let transport: String, state: String, direction: String
        let local: String, remote: String
        let ageSeconds: Double, idleSeconds: Double
        let bytesUp: UInt64, bytesDown: UInt64, packetsUp: UInt64, packetsDown: UInt64
        let roundTripSeconds: Double?
        let outsideRoundTripSeconds: Double?
        let pid: Int32?, process: String?, unit: String?
        let rule: String?
    }
    let flows: [Row]
    let counters: [String: UInt64]

    /// Asks for it; nil when there was no answer that makes sense. Ends the program at a refusal.
    init?(_ client: ControlClient) {
        guard let (owners, table) = readTable(client) else { return nil }
        let byEnds = Dictionary(owners.map { ("\($0.local) \($0.remote)", $0) }, uniquingKeysWith: { a, _ in a })
        let now = MonotonicInstant.now
        func seconds(_ since: MonotonicInstant) -> Double {
            max(0, Double((now - since).nanoseconds / 1_000_000) / 1000)
        }
        flows = table.flows.map { flow in
            // An unconnected UDP socket talks to many; it is told by its port alone.
            let hasRemote = flow.remote.port != 0
            let owner = byEnds["\(flow.guest) \(flow.remote)"]
            return Row(
                transport: flow.transport, state: flow.state, direction: flow.isInbound ? "in" : "out",
                local: "\(flow.guest)", remote: hasRemote ? "\(flow.remote)" : "*",
                ageSeconds: seconds(flow.createdAt), idleSeconds: seconds(flow.activeAt), bytesUp: flow.bytesUp,
                bytesDown: flow.bytesDown, packetsUp: flow.packetsUp, packetsDown: flow.packetsDown,
                roundTripSeconds: flow.roundTrip.map { Double($0.nanoseconds) / 1e9 },
                outsideRoundTripSeconds: flow.outsideRoundTrip.map { Double($0.nanoseconds) / 1e9 }, pid: owner?.pid,
                process: owner?.process, unit: owner?.unit,
                rule: flow.rule.flatMap { $0 < table.rules.count ? table.rules[$0].text : nil })
        }
        counters = Dictionary(table.counters.values.map { ($0.name, $0.value) }, uniquingKeysWith: { a, _ in a })
    }

    var text: String {
        let rows = flows.map { flow in
            [
                flow.transport, flow.direction, flow.state.isEmpty ? "-" : flow.state, flow.local, flow.remote,
                "\((flow.ageSeconds * 10).rounded() / 10)s", TopScreen.bytes(Double(flow.bytesUp)),
                TopScreen.bytes(Double(flow.bytesDown)),
                flow.outsideRoundTripSeconds.map { "\(($0 * 10_000).rounded() / 10)ms" } ?? "-",
                [flow.unit, flow.process.map { "\($0) (\(flow.pid ?? 0))" }].compactMap { $0 }.joined(separator: " "),
            ]
        }
        return tableText([["PROTO", "DIR", "STATE", "LOCAL", "REMOTE", "AGE", "UP", "DOWN", "RTT", "OWNER"]] + rows)
    }
}
