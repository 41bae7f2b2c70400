internal import ArgumentParser
internal import Config
internal import Control
internal import Kernel

/// Reads a configuration, and adds what only this machine can tell: users and signals that do not exist.
func checkedReading(_ bytes: [UInt8], file: String) -> Reading {
    var reading = Reading(bytes, file: file)
    let users = UserDatabase.system
    var more: [Diagnostic] = []
    func error(_ mark: Mark?, _ path: String, _ message: String) {
        more.append(
            Diagnostic(
                severity: .error, code: .unknownReference, mark: mark ?? Mark(line: 1, column: 1), path: path,
                message: message))
    }
    let configuration = reading.configuration
    if let user = configuration.user, users.identity(for: user) == nil {
        error(configuration.userMark, "workspacekit.user", "unknown user \"\(user)\"")
    }
    for service in configuration.services {
        let path = "workspacekit.services.\(service.name)"
        if let user = service.user, users.identity(for: user) == nil {
            error(service.userMark, path + ".user", "unknown user \"\(user)\"")
        }
        if let signal = service.stopSignal, Signal(name: signal) == nil {
            error(service.stopSignalMark, path + ".stop_signal", "unknown signal \"\(signal)\"")
        }
    }
    reading.add(more)
    return reading
}

struct Validate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check a configuration, and say everything there is to say about it.",
        discussion: "Exit code 0; 1 for warnings under --strict; 78 for errors.")

    @Argument(help: "The configuration.") var file = ".gitpod.yml"
    @Flag(help: "A warning is a failure too.") var strict = false
    @Flag(help: "The diagnostics as JSON, on standard output.") var json = false

    /// A diagnostic as `--json` prints it.
    private struct Entry: Encodable {
        let file: String, line: Int, column: Int
        let severity: String, code: String, path: String, message: String
    }

    func run() {
        let bytes: [UInt8]
        do { bytes = try Files.read(file, limit: 2 << 20) } catch { fail("\(error)", ExitCodes.configuration) }
        let reading = checkedReading(bytes, file: file)
        if json {
            print(
                prettyJSON(
                    reading.diagnostics.map {
                        Entry(
                            file: file, line: $0.mark.line, column: $0.mark.column, severity: $0.severity.rawValue,
                            code: $0.code.rawValue, path: $0.path, message: $0.message)
                    }))
        } else {
            for text in reading.rendered { print(text) }
            print("\(file): \(summary(reading))")
        }
        let hasWarnings = reading.diagnostics.contains { $0.severity == .warning }
        quit(reading.hasErrors ? ExitCodes.configuration : strict && hasWarnings ? 1 : 0)
    }

    private func summary(_ reading: Reading) -> String {
        func count(_ severity: Diagnostic.Severity, _ word: String) -> String? {
            let number = reading.diagnostics.filter { $0.severity == severity }.count
            return number == 0 ? nil : "\(number) \(word)\(number == 1 ? "" : "s")"
        }
        let parts = [count(.error, "error"), count(.warning, "warning"), count(.note, "note")].compactMap { $0 }
        let c = reading.configuration
        if !parts.isEmpty { return parts.joined(separator: ", ") }
        return "in order (\(c.tasks.count) tasks, \(c.ports.count) ports, \(c.services.count) services)"
    }
}
