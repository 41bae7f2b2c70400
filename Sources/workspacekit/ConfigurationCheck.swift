internal import ArgumentParser
internal import Config
internal import Control
internal import Kernel
internal import Supervisor

/// Whether a stream of ours is a terminal that shows colours.
func hasColour(_ descriptor: Int32) -> Bool {
    let environment = environmentByName()
    return Terminal.isTerminal(descriptor) && environment["NO_COLOR", default: ""].isEmpty
        && environment["TERM"] != "dumb"
}

/// The configuration of commands that are given none: it is found, not named.
let foundConfiguration = ".gitpod.yml"

/// Reads the configuration that a command names, or ends the program. `elsewhere`: nothing is said of this machine.
func readConfiguration(_ file: String, elsewhere: Bool = false) -> Reading {
    let files = ConfigurationFiles(path: file, name: file, isNamed: file != foundConfiguration)
    do {
        let sources = try files.read(required: true)
        return elsewhere ? Reading(sources) : Reading(sources, on: .system, workspace: files.directory)
    } catch {
        fail("\(error)", ExitCodes.configuration)
    }
}

struct Graph: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show who waits for whom, in an order in which they may start.",
        discussion: """
              workspacekit graph
              workspacekit graph --dot | dot -Tsvg >graph.svg
            """)

    @Argument(help: "The configuration.") var file = foundConfiguration
    @Flag(help: "In Graphviz's language.") var dot = false
    @Flag(help: "As JSON: units in their order, each with its kind and what it depends on.") var json = false

    func validate() throws {
        if dot, json { throw ValidationError("--dot or --json, not both") }
    }

    func run() {
        let reading = readConfiguration(file, elsewhere: true)
        if reading.hasErrors {
            for text in reading.rendered(notes: false, colour: hasColour(2)) { writeLine(text + "\n", to: 2) }
            quit(ExitCodes.configuration)
        }
        let graph = DependencyGraph(reading.configuration)
        if json { return print(graph.json) }
        print(dot ? graph.dot : graph.text, terminator: "")
    }
}

struct Validate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check a configuration, and say everything there is to say about it.",
        discussion: """
            A .workspacekit.yml beside the file is read with it. Says what run says, with the same exit codes: 0, or 78 for
            errors; and 1 for warnings under --strict. Users and files are looked for on this machine, but for --elsewhere.
            docs/configuration.md and workspacekit.yml(5) explain the codes that --json shows.

              workspacekit validate --strict && git commit
            """)

    @Argument(help: "The configuration.") var file = foundConfiguration
    @Flag(help: "A warning is a failure too.") var strict = false
    @Flag(help: "The workspace runs on another machine: users and files are not looked for.") var elsewhere = false
    @Flag(help: "The diagnostics as JSON, on standard output.") var json = false

    func run() {
        let reading = readConfiguration(file, elsewhere: elsewhere)
        if json {
            print(reading.diagnosticsJSON)
        } else {
            for text in reading.rendered(colour: hasColour(1)) { print(text) }
            print("\(file): \(summary(reading))")
        }
        let hasWarnings = reading.diagnostics.contains { $0.severity == .warning }
        quit(reading.hasErrors ? ExitCodes.configuration : strict && hasWarnings ? 1 : 0)
    }

    private func summary(_ reading: Reading) -> String {
        func counted(_ number: Int, _ word: String) -> String { "\(number) \(word)\(number == 1 ? "" : "s")" }
        func count(_ severity: Diagnostic.Severity, _ word: String) -> String? {
            let number = reading.diagnostics.filter { $0.severity == severity }.count
            return number == 0 ? nil : counted(number, word)
        }
        let parts = [count(.error, "error"), count(.warning, "warning")].compactMap { $0 }
        let c = reading.configuration
        if !parts.isEmpty { return parts.joined(separator: ", ") }
        let contents = [
            counted(c.tasks.count, "task"), counted(c.ports.count, "port"), counted(c.services.count, "service"),
        ]
        return "in order (\(contents.joined(separator: ", ")))"
    }
}
