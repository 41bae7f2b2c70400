internal import ArgumentParser
internal import Control

struct Completions: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print what completes the command line in a shell; names of tasks and services included.",
        discussion: """
              workspacekit completions bash >/etc/bash_completion.d/workspacekit
              workspacekit completions zsh >"${fpath[1]}/_workspacekit"
              workspacekit completions fish >~/.config/fish/completions/workspacekit.fish
            """)
    @Argument(help: ArgumentHelp("The shell.", valueName: "bash|zsh|fish"), completion: .list(["bash", "zsh", "fish"]))
    var shell: String

    func run() throws {
        guard let shell = CompletionShell(rawValue: shell) else {
            throw ValidationError("'\(shell)' is none of bash, zsh and fish")
        }
        print(WorkspacekitCommand.completionScript(for: shell))
    }
}

extension CompletionKind {
    /// The units of the workspace that runs; none where there is none.
    static var units: CompletionKind { .custom { arguments, _, prefix in unitNames(arguments, prefix) } }
}

private func unitNames(_ arguments: [String], _ prefix: String) -> [String] {
    let place = arguments.firstIndex(of: "--state-dir").map { $0 + 1 }
    let named = place.flatMap { $0 < arguments.count ? arguments[$0] : nil }
    guard let option = try? StateOption.parse(named.map { ["--state-dir", $0] } ?? []),
        let client = try? ControlClient(option.directory)
    else { return [] }
    let units = client.ask(ControlRequest(.status))?.status?.units ?? []
    return units.map(\.name).filter { $0.hasPrefix(prefix) }
}
