internal import ArgumentParser
internal import Config
internal import Control
internal import Kernel
internal import Supervisor
internal import SystemPackage
internal import TerminalText

struct Configuration: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config", abstract: "Show, describe, begin or import a configuration.",
        subcommands: [Show.self, Schema.self, Init.self, ImportFile.self])

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what a configuration says, or with --defaults what takes effect and where it comes from.",
            discussion: """
                Gitpod's key names; what is not in the file is not shown. Exit code 0, or 78 with the diagnostics on standard
                error.

                  workspacekit config show --json | jq '.tasks[].name'
                  workspacekit config show --defaults
                """)

        @Argument(help: "The configuration.") var file = ".gitpod.yml"
        @Flag(help: "As JSON.") var json = false
        @Flag(help: "As YAML; so it is without --json.") var yaml = false
        @Flag(help: "Defaults filled in, and each value's origin.") var defaults = false

        func validate() throws {
            if json, yaml { throw ValidationError("--json or --yaml, not both") }
        }

        func run() {
            let reading = readConfiguration(file, elsewhere: true)
            if reading.hasErrors {
                for text in reading.rendered(notes: false, colour: hasColour(2)) { writeLine(text + "\n", to: 2) }
                quit(ExitCodes.configuration)
            }
            let text = defaults ? reading.effectiveText(json: json) : reading.documentText(json: json)
            print(text, terminator: text.hasSuffix("\n") ? "" : "\n")
        }
    }

    struct Schema: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print the JSON Schema (draft-07) of a configuration, for editors.",
            discussion: """
                  workspacekit config schema >gitpod.schema.json
                  # yaml-language-server: $schema=gitpod.schema.json
                """)

        func run() { print(JSONSchema.text) }
    }

    struct Init: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write a first .gitpod.yml for the languages found in a folder. Never overwrites.",
            discussion: "  workspacekit config init && workspacekit run")

        @Argument(help: "The folder.") var folder = "."

        func run() {
            let path = Files.absolute(folder)
            let target = path + "/.gitpod.yml"
            guard Files.isDirectory(path) else { fail("there is no folder \(path)", ExitCodes.usage) }
            let names = Files.entries(path)
            let texts = Starter.read.compactMap { name in
                (try? Files.read(path + "/" + name, limit: 1 << 20)).map { (name, String(decoding: $0, as: UTF8.self)) }
            }
            let starter = Starter(names: names, files: Dictionary(texts, uniquingKeysWith: { a, _ in a }))
            do { try Files.create(target, Array(starter.text.utf8)) } catch {
                if error.errno == .fileExists {
                    fail("\(target) is there already: it is left as it is (\"workspacekit validate\" checks it)", 1)
                }
                fail("\(error)", 1)
            }
            if let compose = starter.composeFile {
                say(
                    "\(compose) is here too\nhint: \"workspacekit config import \(compose)\" prints its services for .gitpod.yml"
                )
            }
            let found = starter.findings.joined(separator: "; ")
            print("\(target) written\(found.isEmpty ? "" : " (found: \(found))"); edit it, then: workspacekit run")
        }
    }

    struct ImportFile: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "import",
            abstract: "Turn an automations.yaml, devcontainer.json or compose.yaml into a .gitpod.yml.",
            discussion: """
                The configuration goes to standard output, and a diagnostic for each thing that has no counterpart here to
                standard error. Exit code 0, or 78 when the file cannot be read.

                  workspacekit config import .devcontainer/devcontainer.json >.gitpod.yml
                """)

        @Argument(help: "The file.") var file: String
        @Option(name: .shortAndLong, help: "Write it here instead; never overwrites.") var output: String?

        func run() {
            let bytes: [UInt8]
            do { bytes = try Files.readNamed(file, limit: 16 << 20) } catch {
                fail("\(error)", ExitCodes.configuration)
            }
            let imported = Import(bytes, file: file)
            for text in imported.rendered(colour: hasColour(2)) { writeLine(text + "\n", to: 2) }
            guard let text = imported.text else { quit(ExitCodes.configuration) }
            guard let output else { return print(text, terminator: "") }
            do { try Files.create(output, Array(text.utf8)) } catch {
                if error.errno == .fileExists { fail("\(output) is there already: it is left as it is", 1) }
                fail("\(error)", 1)
            }
        }
    }
}

/// What `plan` and `reload` print.
private func show(_ plan: ReloadPlan, json: Bool, done: Bool) {
    if json {
        print(prettyJSON(plan))
    } else {
        for text in plan.diagnostics { writeLine(text + "\n", to: 2) }
        for change in plan.changes { print(visibleText(change.sentence)) }
        if plan.isValid, plan.changes.isEmpty { print(done ? "nothing changed" : "nothing would change") }
    }
    if !plan.isValid {
        if !json { say("the configuration cannot be used: what runs stays as it is") }
        quit(ExitCodes.configuration)
    }
}

struct Plan: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what a reload of the configuration would do to the running workspace.",
        discussion: """
            Exit code 0; 78 when the configuration cannot be used.

              workspacekit plan && workspacekit reload
            """)
    @OptionGroup var state: StateOption
    @Flag(help: "As JSON.") var json = false

    func run() {
        guard let plan = require(connect(state.directory).ask(ControlRequest(.plan))).plan else {
            fail("the workspace sent no plan", ExitCodes.internalError)
        }
        show(plan, json: json, done: false)
    }
}

struct Reload: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Read the configuration again, and apply what has changed.",
        discussion: """
            A running workspace follows its files by itself. This command does it at once, also where files cannot be watched,
            and starts services that were skipped because a program was missing, if the program is there now. Returns when the
            units that are to stop have stopped and those that can start run; ports outside are opened and closed a moment
            later. Exit code 0; 78 when the configuration cannot be used.

              workspacekit reload
            """)
    @OptionGroup var state: StateOption
    @Flag(help: "As JSON.") var json = false
    @OptionGroup var wait: WaitOption

    func run() {
        let client = connect(state.directory)
        var request = ControlRequest(.reload)
        request.noWait = wait.noWait
        guard let plan = require(client.ask(request)).plan else {
            fail("the workspace sent no plan", ExitCodes.internalError)
        }
        if !wait.noWait { _ = client.answer() }
        show(plan, json: json, done: true)
    }
}
