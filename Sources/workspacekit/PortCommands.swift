internal import ArgumentParser
internal import Config
internal import Control
internal import Kernel
internal import TerminalText

struct Ports: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show on which ports something listens inside, and wait for one.",
        subcommands: [List.self, Await.self], defaultSubcommand: List.self)

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the ports that are served or declared, with the process and the unit that serve them.",
            discussion: """
                  workspacekit ports
                  workspacekit ports --watch
                  workspacekit ports --json | jq '.[] | select(.unit == "web").port'
                """)
        @OptionGroup var state: StateOption
        @Flag(help: "As JSON.") var json = false
        @Flag(help: "Go on, and show each change, until the workspace ends.") var watch = false

        func run() {
            let client = connect(state.directory)
            var ports = ask(client)
            if json { print(prettyJSON(ports)) } else { show(ports) }
            while watch {
                pause(.milliseconds(200))
                client.send(ControlRequest(.ports))
                guard let now = client.answer()?.ports else { return }
                for port in now where !ports.contains(port) { writeLine("+ \(visibleText(sentence(port)))\n", to: 1) }
                for port in ports where !now.contains(where: { $0.port == port.port && $0.transport == port.transport })
                {
                    writeLine("- \(port.port)/\(port.transport)\n", to: 1)
                }
                ports = now
            }
        }

        private func ask(_ client: ControlClient) -> [PortStatus] {
            require(client.ask(ControlRequest(.ports))).ports ?? []
        }

        private func sentence(_ port: PortStatus) -> String {
            let by = [port.process, port.unit.map { "(\($0))" }].compactMap { $0 }.joined(separator: " ")
            return
                "\(port.port)/\(port.transport) \(port.isListening ? "served" : "declared")\(by.isEmpty ? "" : " by \(by)")"
        }

        private func show(_ ports: [PortStatus]) {
            let rows =
                [["PORT", "STATE", "NAME", "PROCESS", "UNIT", "ADDRESSES"]]
                + ports.map { port in
                    [
                        "\(port.port)/\(port.transport)", port.isListening ? "served" : "not served", port.name ?? "-",
                        port.process.map { "\($0) (\(port.pid ?? 0))" } ?? "-", port.unit ?? "-",
                        port.addresses.joined(separator: " "),
                    ]
                }
            printTable(rows)
        }
    }

    struct Await: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Wait until something listens on a port.",
            discussion: """
                Exit code 0; 124 when the time is over.

                  workspacekit ports await 3000 --timeout 1m && curl localhost:3000
                """)
        @OptionGroup var state: StateOption
        @Argument(
            help: "The port: 3000 or 53/udp.",
            transform: { text in
                guard let port = PortAndProtocol(text) else { throw ValidationError("'\(text)' is no port") }
                return port
            }) var port: PortAndProtocol
        @Option(
            help: ArgumentHelp("Give up after so long: 500ms, 30s, 1m30s.", valueName: "duration"),
            transform: duration)
        var timeout: Duration?

        @Flag(help: "Print what ports --json says of it then.") var json = false

        func run() {
            let client = connect(state.directory)
            let end = timeout.map { MonotonicInstant.now + $0 }
            while true {
                let ports = require(client.ask(ControlRequest(.ports))).ports ?? []
                let served = ports.first {
                    $0.port == port.port && ($0.transport == "udp") == port.isUDP && $0.isListening
                }
                if let served { return json ? print(prettyJSON(served)) : () }
                if let end, end <= .now { fail("nothing listens on port \(port.port) yet: the time is over", 124) }
                pause(.milliseconds(100))
            }
        }
    }
}

/// When something was last, in a table.
func ago(_ seconds: Double?) -> String { seconds.map { "\(Int64($0)) s ago" } ?? "-" }

/// Prints rows with their columns aligned.
func printTable(_ rows: [[String]]) { print(tableText(rows), terminator: "") }
