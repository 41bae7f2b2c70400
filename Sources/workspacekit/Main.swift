internal import ArgumentParser
internal import Glibc
internal import Kernel
internal import Ring
internal import Slirp
internal import Supervisor

/// The one binary. A stage is recognised before any argument is parsed; everything else is the command line.
@main
struct Main {
    static func main() {
        CurrentProcess.openStandardStreams()
        let arguments = CommandLine.arguments
        let program = arguments.first ?? ""
        if let personality = InitPersonality(calledBy: program) {
            exit(InitProcess.main(personality, calledAs: program, Array(arguments.dropFirst())))
        }
        if GPCommand.isCalled(arguments.first ?? "") {
            CommandLineEntry.run(GPCommand.self, Array(arguments.dropFirst()))
        }
        if Slirp4netnsProcess.isCalled(arguments.first ?? "") {
            exit(Slirp4netnsProcess.main(Array(arguments.dropFirst())))
        }
        switch arguments.dropFirst().first {
        case "ring1": exit(Int32(Ring1.main()))
        case "ring2": exit(Int32(Ring2.main()))
        case "slirp": exit(Int32(SlirpProcess.main(channel: StageDescriptor.channel)))
        case "supervise":
            exit(
                Int32(
                    SupervisorProcess.main(
                        keeper: StageDescriptor.channel, state: StageDescriptor.configuration,
                        report: StageDescriptor.report,
                        namespaces: [StageDescriptor.users, StageDescriptor.mounts])))
        case "link": exit(Int32(LinkStage.main(channel: StageDescriptor.channel)))
        case "slirp4netns": exit(Slirp4netnsProcess.main(Array(arguments.dropFirst(2))))
        case "examine":
            let isGrandchild = arguments.dropFirst(2).first == "proc"
            exit(
                Int32(
                    isGrandchild
                        ? Examination.mountProc(channel: StageDescriptor.channel)
                        : Examination.main(channel: StageDescriptor.channel)))
        case "probe": exit(Int32(NetworkProbe.main(Array(CommandLine.arguments.dropFirst(2)))))
        default: CommandLineEntry.run(WorkspacekitCommand.self, Array(arguments.dropFirst()))
        }
    }
}

/// Our own exit codes (sysexits.h); anything else is the workspace's.
enum ExitCodes {
    static let usage: Int32 = 64
    static let noSuchWorkspace: Int32 = 69
    static let internalError: Int32 = 70
    static let setUp: Int32 = 71
    static let configuration: Int32 = 78
}

/// Ends the program.
func quit(_ code: Int32) -> Never { exit(code) }

/// Ends the program with one line that says why.
func fail(_ message: String, _ code: Int32) -> Never {
    say(message)
    exit(code)
}

/// The environment by name.
func environmentByName() -> [String: String] {
    var values: [String: String] = [:]
    for pair in currentEnvironment() {
        let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        if parts.count == 2 { values[String(parts[0])] = String(parts[1]) }
    }
    return values
}
