internal import Control
internal import Kernel
internal import SystemPackage

/// The standard streams of a program that `exec` runs without a terminal: the caller's own, or a pipe in place of each that
/// is a terminal.
final class ExecutionStreams {
    /// What the program gets as descriptors 0 to 2.
    private(set) var remote: [Descriptor] = []
    /// Our end of the pipe that is the program's standard input.
    private var input: Descriptor?
    /// Our ends of the pipes that are its output, with the descriptors of ours they are copied to.
    private var outputs: [(pipe: Descriptor, destination: Int32)] = []
    /// Typed bytes that the pipe has had no room for.
    private var typed: ArraySlice<UInt8> = []

    private enum Token {
        static let answer: UInt64 = 0, terminal: UInt64 = 1, input: UInt64 = 2, output: UInt64 = 3
    }

    init() throws(KernelError) {
        for number in Int32(0)...2 {
            guard Terminal.isTerminal(number) else {
                remote.append(try OwnedDescriptor.duplicate(of: number))
                continue
            }
            let (reading, writing) = try makePipe()
            let ours = number == 0 ? writing : reading
            try ours.setNonblocking(true)
            remote.append(number == 0 ? reading : writing)
            if number == 0 { input = ours } else { outputs.append((ours, number)) }
        }
    }

    /// Copies until the workspace says how the program ended; its exit code, or nil when the connection ends first. What
    /// the program has written before its end is copied; what others that hold its output write later is not.
    ///
    /// - Parameter answer: what it has said of the start.
    func copy(until client: ControlClient, after answer: ControlResponse) -> UInt8? {
        // The other ends are the program's alone, so that their end shows.
        remote = []
        // A supervisor that follows one which was killed just then knows no more than the end. And a program that ends at once
        // may be answered for together with its start.
        if answer.exitCode != nil { return end(answer) }
        if client.connection.hasLine { return end(client.answer()) }
        guard let poller = try? Poller() else { return 70 }
        try? poller.add(client.connection.descriptor.number, .readable, token: Token.answer)
        if input != nil { try? poller.add(0, .readable, token: Token.terminal) }
        for (index, output) in outputs.enumerated() {
            try? poller.add(output.pipe.number, .readable, token: Token.output + UInt64(index))
        }
        while let count = try? poller.wait(nil) {
            for index in 0..<count {
                switch poller.event(index).token {
                case Token.answer:
                    return end(client.answer())
                case Token.terminal: readTerminal(poller)
                case Token.input: writeInput(poller)
                case let token:
                    let output = outputs[Int(token - Token.output)]
                    if !drain(output) { poller.remove(output.pipe.number) }
                }
            }
        }
        return nil
    }

    private func end(_ answer: ControlResponse?) -> UInt8? {
        guard let answer else { return nil }
        for output in outputs { drain(output) }
        return answer.exitCode ?? 70
    }

    /// Copies what is there; false at the end.
    @discardableResult
    private func drain(_ output: (pipe: Descriptor, destination: Int32)) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 65536)
        for _ in 0..<64 {
            switch Kernel.read(output.pipe.number, into: &buffer) {
            case .bytes(0), .failed: return false
            case .bytes(let count): writeAll(Array(buffer[..<count]), to: output.destination)
            case .wouldBlock: return true
            }
        }
        return true
    }

    private func readTerminal(_ poller: borrowing Poller) {
        var buffer = [UInt8](repeating: 0, count: 4096)
        guard case .bytes(let count) = Kernel.read(0, into: &buffer), count > 0 else {
            poller.remove(0)
            input = nil  // closes it: the program reads the end
            return
        }
        typed = buffer[..<count]
        // The terminal waits while the pipe is full.
        poller.remove(0)
        guard let input else { return }
        try? poller.add(input.number, .writable, token: Token.input)
    }

    private func writeInput(_ poller: borrowing Poller) {
        guard let input else { return }
        switch Kernel.write(input.number, Array(typed)) {
        case .bytes(let count): typed = typed.dropFirst(count)
        case .wouldBlock: return
        case .failed:  // the program reads no more
            typed = []
            self.input = nil
            return
        }
        guard typed.isEmpty else { return }
        poller.remove(input.number)
        try? poller.add(0, .readable, token: Token.terminal)
    }
}
