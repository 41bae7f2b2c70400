internal import ArgumentParser
internal import Control
internal import Kernel

struct Top: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what tasks and services use, as it changes.",
        discussion: """
            On a terminal: arrows or j and k select, r restarts, s stops, S starts, l shows the log, q quits. Elsewhere, or
            with --once, one table after one interval. Memory is what is resident, in a cgroup what that counts; the network
            is what TCP connections carry that are there.

              workspacekit top
              workspacekit top --json | jq -r '.[] | select(.processorPercent > 90).name'
            """)
    @OptionGroup var state: StateOption
    @Option(
        name: .shortAndLong, help: ArgumentHelp("From one look to the next.", valueName: "duration"),
        transform: duration)
    var interval: Duration = .seconds(2)
    @Flag(help: "One table, and no more.") var once = false
    @Flag(help: "One look as JSON.") var json = false

    func validate() throws {
        guard interval >= .milliseconds(100) else { throw ValidationError("an interval is 100ms at least") }
    }

    func run() {
        ignore(.pipe)
        let client = connect(state.directory)
        var screen = TopScreen()
        screen.take(Self.sample(client))
        let isLive = !once && !json && Terminal.isTerminal(0) && Terminal.isTerminal(1)
        if isLive { return LiveTop(client: client, screen: screen, interval: interval, state: state.directory).run() }
        pause(interval)
        screen.take(Self.sample(client))
        if json { return print(prettyJSON(screen.rows)) }
        for line in screen.table(screen.rows.count + 1) { print(line) }
    }

    static func sample(_ client: ControlClient) -> TopScreen.Sample {
        guard let status = require(client.ask(ControlRequest(.status))).status,
            let usage = require(client.ask(ControlRequest(.usage))).usage
        else { fail("the workspace sent no status", ExitCodes.internalError) }
        return TopScreen.Sample(at: .now, status: status, usage: usage)
    }
}

/// `top` on a terminal, which it gives back as it was.
private struct LiveTop {
    let client: ControlClient
    var screen: TopScreen
    let interval: Duration
    let state: StateDirectory

    consuming func run() {
        guard let settings = Terminal.makeRaw(0) else { return }
        // The other screen, without a cursor; and back.
        write("\u{1b}[?1049h\u{1b}[?25l")
        let problem = live()
        write("\u{1b}[?25h\u{1b}[?1049l")
        Terminal.restore(0, settings)
        if let problem { fail(problem, ExitCodes.noSuchWorkspace) }
    }

    /// Until the user has seen enough, or the workspace ends.
    private mutating func live() -> String? {
        guard let poller = try? Poller(),
            let signals = try? SignalReader([.windowChanged, .terminate, .hangup, .interrupt])
        else { return nil }
        try? poller.add(0, .readable, token: 0)
        try? poller.add(signals.number, .readable, token: 1)
        var buffer = [UInt8](repeating: 0, count: 64)
        var due = MonotonicInstant.now + interval
        draw()
        while true {
            guard let count = try? poller.wait(max(.zero, due - .now)) else { return nil }
            for index in 0..<count {
                if poller.event(index).token == 1 {
                    while let (signal, _) = signals.next() { if signal != .windowChanged { return nil } }
                    continue
                }
                guard case .bytes(let n) = Kernel.read(0, into: &buffer), n > 0 else { return nil }
                for key in TopScreen.keys(in: buffer[..<n]) {
                    guard let command = screen.handle(key) else { continue }
                    if command == .quit { return nil }
                    follow(command)
                }
            }
            if due <= .now {
                due = .now + interval
                guard let status = client.ask(ControlRequest(.status))?.status,
                    let usage = client.ask(ControlRequest(.usage))?.usage
                else { return "the workspace ended" }
                screen.take(TopScreen.Sample(at: .now, status: status, usage: usage))
                if let unit = screen.log?.unit { showLog(of: unit) }
            }
            draw()
        }
    }

    private mutating func follow(_ command: TopScreen.Command) {
        switch command {
        case .ask(let verb, let unit):
            var request = ControlRequest(verb)
            request.names = [unit]
            // The table shows when it has taken effect.
            request.noWait = true
            screen.message = client.ask(request)?.error ?? "\(verb.rawValue) \(unit): asked for"
        case .showLog(let unit): showLog(of: unit)
        case .closeLog, .quit: break
        }
    }

    private mutating func showLog(of unit: String) {
        let reader = LogReader(state: state, names: [unit], style: LogStyle())
        if let problem = reader.problem { return screen.message = problem }
        screen.show(log: reader.lastLines(200), of: unit)
    }

    private func draw() {
        let size = Terminal.size(1) ?? (24, 80)
        let lines = screen.lines(rows: size.rows, columns: size.columns)
        // Each line anew, and nothing of an old one behind it: nothing flickers.
        write("\u{1b}[H" + lines.map { $0 + "\u{1b}[K" }.joined(separator: "\r\n"))
    }

    private func write(_ text: String) { writeLine(text, to: 1) }
}
