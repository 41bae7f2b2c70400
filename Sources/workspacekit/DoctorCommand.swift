internal import ArgumentParser
internal import Config
internal import Control
internal import Kernel
internal import Ring
internal import Slirp
internal import Supervisor

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Find out what this container allows a workspace, what is missing, and which flag gives it.",
        discussion: """
            Everything is tried, in a child that is thrown away. Exit code 0 when a workspace would be all its own (full); 1 \
            when run would give something up.

              workspacekit doctor
              docker run --rm --entrypoint workspacekit IMAGE doctor
              workspacekit doctor --json | jq '.findings[] | select(.state != "ok").cure'
            """)
    @Option(
        help: ArgumentHelp(
            "The configuration whose network is compared with the container's (default: .gitpod.yml here, if there is one).",
            valueName: "file"), completion: .file())
    var config: String?
    @Flag(help: "As JSON.") var json = false

    func run() {
        ignore(.pipe)
        let report = DoctorReport(Doctor.examine(addresses: addresses()))
        if json { print(prettyJSON(report)) } else { print(report.text(width: 80)) }
        if report.mode != Isolation.full.rawValue { quit(1) }
    }

    /// Whether the workspace's networks hide any of the container's.
    private func addresses() -> Outcome {
        let taken = (try? RoutedNetwork.all()) ?? []
        let network = networkConfiguration()
        let choice = NetworkChoice(cidr: network.cidr.flatMap { Subnet($0) }, taken: taken)
        let hidden = (network.hidden(of: taken) + choice.hidden).map(\.description)
        let own = "\(choice.subnet4), \(choice.subnet6)"
        if !hidden.isEmpty { return .lesser("\(own): overlaps the container's \(hidden.joined(separator: ", "))") }
        let avoided = taken.filter { network in
            NetworkChoice.standard.contains { $0.overlaps(network.subnet) }
        }
        let reason = avoided.map(\.description).joined(separator: ", ")
        return .present(own + (reason.isEmpty || network.cidr != nil ? "" : ", beside the container's \(reason)"))
    }

    /// A configuration that cannot be read or used is the matter of other commands, unless it was named.
    private func networkConfiguration() -> NetworkSpec {
        if let config { return readConfiguration(config, elsewhere: true).configuration.network }
        let files = ConfigurationFiles(path: foundConfiguration, name: foundConfiguration)
        return Reading((try? files.read()) ?? []).configuration.network
    }
}

/// What `doctor` shows.
struct DoctorReport: Encodable {
    struct Row: Encodable {
        let feature: String
        /// ok, degraded or missing.
        let state: String
        let found: String
        let cost: String?
        let cure: Cure?
    }
    let mode: String
    let network: String
    let findings: [Row]

    init(_ diagnosis: Diagnosis) {
        mode = diagnosis.isolation.rawValue
        network =
            switch diagnosis.link {
            case .tap: "sandbox, by a tap device"
            case .packet: "sandbox, by a packet socket"
            case .auto, nil: "host"
            }
        findings = diagnosis.findings.map { finding in
            let (state, found) =
                switch finding.outcome {
                case .present(let text): ("ok", text)
                case .lesser(let text): ("degraded", text)
                case .absent(let text): (finding.feature.isEssential ? "missing" : "degraded", text)
                }
            return Row(
                feature: finding.feature.rawValue, state: state, found: found,
                cost: finding.isPresent ? nil : finding.feature.cost, cure: finding.cure)
        }
    }

    /// As lines of at most so many columns; a flag stands on a line of its own, to be copied.
    func text(width: Int) -> String {
        var lines: [String] = []
        for row in findings {
            let head = "\(padded(row.state, 9)) \(padded(row.feature, 18))"
            lines += wrapped(row.found, first: head + " ", rest: String(repeating: " ", count: 29), width)
            if let cost = row.cost {
                lines += wrapped(cost, first: "            costs: ", rest: String(repeating: " ", count: 19), width)
            }
            guard let cure = row.cure else { continue }
            let ways = [
                ("docker", cure.docker), ("compose", cure.compose), ("podman", cure.podman),
                ("kubernetes", cure.kubernetes), ("machine", cure.host), ("config", cure.configuration),
            ]
            for (name, flag) in ways {
                guard let flag else { continue }
                lines += wrapped(
                    flag, first: "            \(padded(name + ":", 12)) ", rest: String(repeating: " ", count: 25),
                    width)
            }
        }
        lines.append("")
        lines.append("run would choose: \(mode), network \(network)")
        return lines.joined(separator: "\n")
    }

    private func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }

    private func wrapped(_ text: String, first: String, rest: String, _ width: Int) -> [String] {
        var lines: [String] = []
        var line = first
        var isFresh = true
        for word in text.split(separator: " ") {
            if !isFresh, line.count + 1 + word.count > width {
                lines.append(line)
                line = rest
                isFresh = true
            }
            line += (isFresh ? "" : " ") + word
            isFresh = false
        }
        while line.last == " " { line.removeLast() }
        return lines + [line]
    }
}
