internal import ArgumentParser
internal import Control

struct Metrics: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print what there is to measure in Prometheus' text format.",
        discussion: """
            For the textfile collector of node_exporter, or anything else that reads the format.

              workspacekit metrics >/var/lib/node_exporter/workspace.prom.new && mv /var/lib/node_exporter/workspace.prom{.new,}
            """)
    @OptionGroup var state: StateOption

    func run() {
        let client = connect(state.directory)
        guard let status = require(client.ask(ControlRequest(.status))).status else {
            fail("the workspace sent no status", ExitCodes.internalError)
        }
        let ports = require(client.ask(ControlRequest(.ports))).ports ?? []
        print(Exposition(status, ports).text, terminator: "")
    }
}

/// The text-based exposition format 0.0.4: each family with its help and type, labels escaped.
private struct Exposition {
    private(set) var text = ""

    init(_ status: WorkspaceStatus, _ ports: [PortStatus]) {
        let units = status.units
        func labels(_ unit: UnitStatus) -> [(String, String)] { [("unit", unit.name), ("kind", unit.kind)] }
        func flag(_ value: Bool) -> Double { value ? 1 : 0 }
        add(
            "workspacekit_info", "gauge", "The program that runs the workspace.",
            [([("version", WorkspacekitCommand.configuration.version)], 1)])
        add(
            "workspacekit_stopping", "gauge", "Whether the workspace is being stopped.",
            [([], flag(status.state == "stopping"))])
        add(
            "workspacekit_unit_running", "gauge", "Whether a task or service has a process.",
            units.map { (labels($0), flag($0.pid != nil)) })
        add(
            "workspacekit_unit_ready", "gauge", "Whether a unit that runs is ready.",
            units.compactMap { unit in unit.isReady.map { (labels(unit), flag($0)) } })
        add(
            "workspacekit_unit_healthy", "gauge", "What the healthcheck of a unit that runs says.",
            units.compactMap { unit in unit.isHealthy.map { (labels(unit), flag($0)) } })
        add(
            "workspacekit_unit_state", "gauge", "The state of a unit; 1 for the one it is in.",
            units.map { (labels($0) + [("state", $0.state)], 1) })
        add(
            "workspacekit_unit_restarts_total", "counter", "Starts of a unit after its first.",
            units.map { (labels($0), Double($0.restarts)) })
        add(
            "workspacekit_unit_oom_kills_total", "counter", "Ends of a unit for want of memory.",
            units.map { (labels($0), Double($0.outOfMemoryKills)) })
        add(
            "workspacekit_unit_last_exit_code", "gauge", "What a unit ended with last; 128 + n for signal n.",
            units.compactMap { unit in unit.exitCode.map { (labels(unit), Double($0)) } })
        add(
            "workspacekit_unit_uptime_seconds", "gauge", "How long the process of a unit has run.",
            units.compactMap { unit in unit.uptimeSeconds.map { (labels(unit), $0) } })
        let listening = ports.filter(\.isListening)
        add(
            "workspacekit_ports_listening", "gauge", "Ports on which something listens inside.",
            ["tcp", "udp"].map { transport in
                ([("transport", transport)], Double(listening.filter { $0.transport == transport }.count))
            })
    }

    private mutating func add(
        _ name: String, _ type: String, _ help: String, _ samples: [(labels: [(String, String)], value: Double)]
    ) {
        guard !samples.isEmpty else { return }
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
        for sample in samples {
            let labels = sample.labels.map { "\($0)=\"\(escaped($1))\"" }.joined(separator: ",")
            let whole = Int(exactly: sample.value)
            text +=
                name + (labels.isEmpty ? "" : "{\(labels)}") + " " + (whole?.description ?? "\(sample.value)") + "\n"
        }
    }

    private func escaped(_ value: String) -> String {
        value.map { character in
            switch character {
            case "\\": "\\\\"
            case "\"": "\\\""
            case "\n": "\\n"
            default: String(character)
            }
        }.joined()
    }
}
