internal import ArgumentParser
internal import Control
internal import FoundationEssentials
internal import Kernel
internal import TerminalText

struct Events: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what happened in the workspace: starts, ends, readiness, health, reloads.",
        discussion: """
            Without --follow, what has happened so far; also after the workspace ended.

              workspacekit events --follow web
              workspacekit events --since 10m
              workspacekit events --json --follow | jq 'select(.event == "unhealthy").unit'
            """)
    @OptionGroup var state: StateOption
    @Flag(name: .shortAndLong, help: "Go on as more happens, until the workspace ends.") var follow = false
    @Option(name: [.customShort("n"), .customLong("tail")], help: "Only the last so many.") var last: Int?
    @Option(
        help: ArgumentHelp("Nothing older: so long ago (10m, 1h30m), or a time (RFC 3339).", valueName: "time"),
        transform: instant)
    var since: WallInstant?
    @Flag(help: "One JSON object a line.") var json = false
    @Argument(help: "Of which; all, and the workspace's own, when none is named.", completion: .units) var names:
        [String] = []

    func validate() throws {
        if let last, last < 0 { throw ValidationError("a number of events is not negative") }
    }

    func run() {
        ignore(.pipe)
        let path = state.directory.events
        guard Files.status(path) != nil else {
            fail("no events in \(path); name another workspace with --state-dir", 1)
        }
        guard Files.isAccessible(path, 4) else { fail(readRefusal(path), 1) }
        let end = GrowingFile(path)
        var bytes: [UInt8] = []
        for piece in LogFiles.pieces(path) {
            bytes +=
                piece.status.map { GrowingFile.Identity($0) } == end.file
                ? piece.bytes.prefix(end.offset) : piece.bytes[...]
        }
        var partial: [UInt8] = []
        let events = lines(adding: bytes, to: &partial)
        for text in last.map({ events.suffix($0) }) ?? events[...] { writeOut(Array(text.utf8)[...]) }
        guard follow else { return }
        followGrowth(of: [end], in: state.directory.path, of: state.directory) { bytes, _ in
            for text in lines(adding: bytes, to: &partial) { writeOut(Array(text.utf8)[...]) }
        }
    }

    /// The events of whole lines, as they are printed; the rest waits for more.
    private func lines(adding bytes: [UInt8], to partial: inout [UInt8]) -> [String] {
        partial += bytes
        guard let end = partial.lastIndex(of: 10) else { return [] }
        defer { partial.removeFirst(end + 1) }
        return partial[..<end].split(separator: 10).compactMap { line in
            // A line that a full disk cut short is none.
            guard let event = ControlConnection.decode(WorkspaceEvent.self, Array(line)), isWanted(event) else {
                return nil
            }
            return json
                ? String(decoding: line, as: UTF8.self) + "\n" : visibleText("\(event.time) \(event.sentence)") + "\n"
        }
    }

    private func isWanted(_ event: WorkspaceEvent) -> Bool {
        if let since, let time = WallInstant(event.time), time < since { return false }
        return names.isEmpty || event.unit.map { names.contains($0) } ?? false
    }
}
