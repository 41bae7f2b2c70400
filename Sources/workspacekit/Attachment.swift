internal import ArgumentParser
internal import Control
internal import Kernel
internal import SystemPackage

struct Attach: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Connect this terminal to that of a task or service (tty: true), until it ends.",
        discussion: """
            The detach keys leave it running. Several may look; the first one types and gives it its size. Ends with the
            unit's exit code, or 0 when detached.

              workspacekit attach web
              docker exec -it CONTAINER workspacekit attach web
            """)
    @OptionGroup var state: StateOption
    @Option(
        help: ArgumentHelp("Keys that detach, as Docker writes them.", valueName: "keys"),
        transform: { text in
            guard let keys = DetachKeys(text) else {
                throw ValidationError("'\(text)' is no sequence of keys such as ctrl-p,ctrl-q")
            }
            return keys
        })
    var detachKeys = DetachKeys.standard
    @Flag(help: "Only look.") var readOnly = false
    @Argument(help: "Which.", completion: .units) var name: String

    func run() {
        ignore(.pipe)
        quit(
            Int32(
                Attachment(client: connect(state.directory), name: name, isReadOnly: readOnly, keys: detachKeys).run()))
    }
}

/// A sequence of keys, looked for in what is typed.
struct DetachKeys: Hashable {
    static let standard = DetachKeys(bytes: [16, 17])
    let bytes: [UInt8]
    private var matched = 0

    private init(bytes: [UInt8]) { self.bytes = bytes }

    /// `ctrl-p,ctrl-q`: letters, and ctrl- with a letter or one of @ [ \\ ] ^ _.
    init?(_ text: String) {
        var bytes: [UInt8] = []
        for key in text.split(separator: ",", omittingEmptySubsequences: false) {
            let ascii = Array(key.utf8)
            if ascii.count == 1 {
                bytes.append(ascii[0])
            } else if key.hasPrefix("ctrl-"), ascii.count == 6 {
                let upper = ascii[5] >= 97 && ascii[5] <= 122 ? ascii[5] - 32 : ascii[5]
                guard (64...95).contains(upper) else { return nil }
                bytes.append(upper - 64)
            } else {
                return nil
            }
        }
        if bytes.isEmpty { return nil }
        self.bytes = bytes
    }

    /// What of the typed bytes goes on to the program, and whether the sequence is complete. The beginning of a sequence is
    /// held back until it is clear that it is none.
    mutating func pass(_ typed: ArraySlice<UInt8>) -> (through: [UInt8], isComplete: Bool) {
        var through: [UInt8] = []
        for byte in typed {
            if byte == bytes[matched] {
                matched += 1
                if matched == bytes.count { return (through, true) }
                continue
            }
            through += bytes[..<matched]
            matched = byte == bytes[0] ? 1 : 0
            if matched == 0 { through.append(byte) }
            if matched == bytes.count { return (through, true) }
        }
        return (through, false)
    }
}

/// This terminal, connected to a unit's.
final class Attachment {
    private let client: ControlClient
    private let name: String
    private let isReadOnly: Bool
    private var keys: DetachKeys
    private var master: Descriptor?
    private var settings: Terminal.Settings?

    init(client: ControlClient, name: String, isReadOnly: Bool = false, keys: DetachKeys = .standard) {
        self.client = client
        self.name = name
        self.isReadOnly = isReadOnly
        self.keys = keys
    }

    func run() -> UInt8 {
        let first = attach(replays: true)
        if let error = first?.error { fail(error, 1) }
        guard first != nil else { fail("the workspace ended", ExitCodes.noSuchWorkspace) }
        if first?.isWriter == false, !isReadOnly { say("somebody else types: this one only shows it") }
        settings = Terminal.makeRaw(0)
        defer { if let settings { Terminal.restore(0, settings) } }
        return relay()
    }

    private func attach(replays: Bool) -> ControlResponse? {
        var request = ControlRequest(.attach)
        request.names = [name]
        request.readOnly = isReadOnly
        request.replay = replays
        let answer = client.ask(request)
        master = client.connection.received.first
        client.connection.received = []
        if let master { Terminal.copySize(from: 0, to: master.number) }
        writeAll(client.connection.rest(), to: 1)
        return answer
    }

    private func relay() -> UInt8 {
        guard let poller = try? Poller(), let signals = try? SignalReader([.windowChanged]) else { return 70 }
        try? poller.add(0, .readable, token: 0)
        try? poller.add(client.connection.descriptor.number, .readable, token: 1)
        try? poller.add(signals.number, .readable, token: 2)
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            guard let count = try? poller.wait(nil) else { return 70 }
            for index in 0..<count {
                switch poller.event(index).token {
                case 0:
                    guard case .bytes(let n) = Kernel.read(0, into: &buffer), n > 0 else {
                        poller.remove(0)
                        continue
                    }
                    let (through, isComplete) = keys.pass(buffer[..<n])
                    if let master { writeAll(through, to: master.number) }
                    if isComplete {
                        if let settings { Terminal.restore(0, settings) }
                        settings = nil
                        say("detached from \(name)")
                        return 0
                    }
                case 1:
                    if case .bytes(let n) = Kernel.read(client.connection.descriptor.number, into: &buffer), n > 0 {
                        writeAll(Array(buffer[..<n]), to: 1)
                        continue
                    }
                    // The unit ended; or the supervisor did, and another one has the terminal.
                    poller.remove(client.connection.descriptor.number)
                    guard client.reconnect() else { return 0 }
                    guard let again = attach(replays: false), again.error == nil else { return exitCode() }
                    try? poller.add(client.connection.descriptor.number, .readable, token: 1)
                default:
                    while signals.next() != nil { if let master { Terminal.copySize(from: 0, to: master.number) } }
                }
            }
        }
    }

    private func exitCode() -> UInt8 {
        // The terminal closes a moment before the end of the process is known. One that has only let go of it lives on.
        for _ in 0..<100 {
            let units = client.ask(ControlRequest(.status))?.status?.units ?? []
            guard let unit = units.first(where: { $0.name == name }), unit.pid != nil else {
                return units.first { $0.name == name }?.exitCode ?? 0
            }
            pause(.milliseconds(10))
        }
        return 0
    }
}
