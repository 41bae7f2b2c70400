internal import Control
internal import Kernel

/// The text-based exposition format 0.0.4: each family with its help and type, labels escaped.
struct Exposition {
    private(set) var text = ""

    /// - Parameters:
    ///   - stages: how long each stage of the start took, in seconds.
    ///   - interfaces: the text of /proc/net/dev (proc_pid_net(5)).
    init(
        _ status: WorkspaceStatus, _ usage: [UnitUsage], _ ports: [PortStatus],
        stages: [(name: String, seconds: Double)],
        interfaces: String
    ) {
        let units = status.units
        func labels(_ unit: UnitStatus) -> [(String, String)] { label(unit.name, unit.kind) }
        func label(_ name: String, _ kind: String) -> [(String, String)] {
            [("unit", BoundedName.of(name)), ("kind", kind)]
        }
        func flag(_ value: Bool) -> Double { value ? 1 : 0 }
        add(
            "workspacekit_info", "gauge", "The program that runs the workspace.",
            [([("version", Version.current)], 1)])
        add(
            "workspacekit_stopping", "gauge", "Whether the workspace is being stopped.",
            [([], flag(status.state == "stopping"))])
        add(
            "workspacekit_forwarder_restarts_total", "counter",
            "Ends of the forwarder that reset all open connections.", [([], Double(status.forwarderRestarts ?? 0))])
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
        let kinds = Dictionary(units.map { ($0.name, $0.kind) }, uniquingKeysWith: { a, _ in a })
        add(usage) { label($0, kinds[$0] ?? "") }
        add(interfaces: interfaces)
        add(
            "workspacekit_start_stage_duration_seconds", "gauge", "How long each stage of the workspace's start took.",
            stages.map { ([("stage", $0.name)], $0.seconds) })
    }

    /// What a unit uses; its processor time may go down when a process ends, outside a cgroup, so that it is a gauge.
    private mutating func add(_ usage: [UnitUsage], _ labels: (String) -> [(String, String)]) {
        add(
            "workspacekit_unit_processes", "gauge", "Processes of a unit.",
            usage.map { (labels($0.name), Double($0.processes)) })
        add(
            "workspacekit_unit_memory_bytes", "gauge", "Memory that a unit's processes have.",
            usage.map { (labels($0.name), Double($0.memoryBytes)) })
        add(
            "workspacekit_unit_processor_seconds", "gauge", "Processor time of a unit's processes.",
            usage.map { (labels($0.name), $0.processorSeconds) })
        add(
            "workspacekit_unit_network_receive_bytes_total", "counter",
            "Bytes that came over a unit's TCP connections that were there when somebody looked.",
            usage.map { (labels($0.name), Double($0.receivedBytes)) })
        add(
            "workspacekit_unit_network_transmit_bytes_total", "counter",
            "Bytes that went over a unit's TCP connections that were there when somebody looked.",
            usage.map { (labels($0.name), Double($0.sentBytes)) })
    }

    /// The workspace's interfaces, by the words of node_exporter.
    private mutating func add(interfaces text: String) {
        let devices = text.split(separator: "\n").dropFirst(2).compactMap { line -> (String, [Double])? in
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, let name = parts[0].split(separator: " ").first else { return nil }
            let numbers = parts[1].split(separator: " ").compactMap { Double($0) }
            return numbers.count >= 12 ? (String(name), numbers) : nil
        }
        let columns = [
            (0, "receive_bytes", "Bytes that came"), (1, "receive_packets", "Packets that came"),
            (2, "receive_errs", "Errors while receiving"), (3, "receive_drop", "Packets that were dropped on arrival"),
            (8, "transmit_bytes", "Bytes that were sent"), (9, "transmit_packets", "Packets that were sent"),
            (10, "transmit_errs", "Errors while sending"), (11, "transmit_drop", "Packets that were not sent"),
        ]
        for (column, name, help) in columns {
            add(
                "workspacekit_network_\(name)_total", "counter", "\(help), by the workspace's interface.",
                devices.map { ([("device", $0.0)], $0.1[column]) })
        }
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
        // By scalars: a carriage return and a line feed are one character.
        value.unicodeScalars.map { scalar in
            switch scalar {
            case "\\": "\\\\"
            case "\"": "\\\""
            case "\n": "\\n"
            default: String(scalar)
            }
        }.joined()
    }
}
