internal import ArgumentParser
internal import Config
internal import Kernel
internal import TerminalText

/// The command line as it is typed: an unknown command is reported with the one that was probably meant, and help fits the
/// terminal.
enum CommandLineEntry {
    /// Parses the arguments and runs the command that they name; ends the program.
    static func run(_ root: any ParsableCommand.Type, _ arguments: [String]) -> Never {
        let arguments = arguments == ["-v"] || arguments == ["-V"] ? ["--version"] : arguments
        if let unknown = UnknownCommand(arguments, root) { fail(unknown.message, ExitCodes.usage) }
        do {
            var command = try root.parseAsRoot(arguments)
            try command.run()
            quit(0)
        } catch {
            let code = root.exitCode(for: error)
            let text = root.fullMessage(for: error, columns: HelpText.unwrapped)
            guard !text.isEmpty else { quit(code.rawValue) }
            let isHelp = text.hasPrefix("OVERVIEW: ")
            writeLine((isHelp ? HelpText(text).wrapped(to: width) : text) + "\n", to: code == .success ? 1 : 2)
            quit(code.rawValue)
        }
    }

    /// The columns of the terminal: $COLUMNS where a user or a script sets it, as everywhere.
    private static var width: Int {
        environmentByName()["COLUMNS"].flatMap { Int($0) } ?? Terminal.size(1)?.columns ?? 80
    }
}

/// A word that stands where a command is expected and is none.
private struct UnknownCommand {
    /// What other programs call these, or where the command is found here.
    private static let synonyms = [
        "ls": "status", "list": "status", "down": "stop", "kill": "signal", "shell": "exec -t bash",
        "sh": "exec -t bash",
        "bash": "exec -t bash", "check": "validate", "lint": "validate", "import": "config import",
        "show": "config show", "schema": "config schema", "completion": "completions", "forward": "net forwards",
        "capture": "net capture", "flows": "net flows",
    ]
    private let word: String
    private let path: [String]
    private let meant: String?

    /// Nil when every word names a command, or is an argument of one.
    init?(_ arguments: [String], _ root: any ParsableCommand.Type) {
        var command: any ParsableCommand.Type = root
        var path = [root._commandName]
        var words = arguments[...]
        let isHelp = words.first == "help"
        if isHelp { words = words.dropFirst() }
        while let word = words.first, !word.hasPrefix("-") {
            words = words.dropFirst()
            let inner = command.configuration.subcommands
            if inner.isEmpty, !isHelp { return nil }
            let found = inner.first { $0._commandName == word || $0.configuration.aliases.contains(word) }
            if let found {
                command = found
                path.append(word)
                continue
            }
            let names = inner.flatMap { [$0._commandName] + $0.configuration.aliases }
            var meant = nearest(to: word, in: names)
            if path.count == 1, path[0] == WorkspacekitCommand._commandName {
                meant = Self.synonyms[word] ?? meant
            }
            // What is no command may be an argument of the one that is meant without a word.
            if meant == nil, command.configuration.defaultSubcommand != nil, !isHelp { return nil }
            self.word = word
            self.path = path
            self.meant = meant
            return
        }
        return nil
    }

    var message: String {
        let name = path.joined(separator: " ")
        let hint = meant.map { "did you mean \"\((path + [$0]).joined(separator: " "))\"?" }
        return "unknown command \"\(word)\"\nhint: " + (hint ?? "\"\(name) --help\" lists the commands")
    }
}

struct VersionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "version", abstract: "Print the version.", discussion: "  workspacekit version")

    func run() { print(WorkspacekitCommand.configuration.version) }
}
