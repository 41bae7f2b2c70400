internal import Control
internal import Kernel
internal import SystemPackage

/// The client's side of `exec`: hands over its standard streams, or relays a terminal of the workspace's.
///
/// A terminal of the caller's is never handed over, because a program inside could keep it, read what is typed after
/// `exec` has ended, and change its settings: the program gets pipes instead, whose bytes this side copies.
struct RemoteExecution {
    let client: ControlClient

    /// Runs the program to its end; its exit code.
    func run(_ request: ControlRequest) -> UInt8 {
        ignore(.pipe)
        if request.terminal == true { return runOnTerminal(request) }
        guard let streams = try? ExecutionStreams() else { fail("cannot make a pipe for the program", 70) }
        let answer = started(client.ask(request, descriptors: streams.remote))
        guard let code = streams.copy(until: client, after: answer) else {
            fail("the workspace ended", ExitCodes.noSuchWorkspace)
        }
        return code
    }

    /// The answer that the program runs; ends with a shell's code for what could not be started.
    private func started(_ response: ControlResponse?) -> ControlResponse {
        if let response, let error = response.error, let code = response.exitCode { fail(error, Int32(code)) }
        return require(response)
    }

    private func runOnTerminal(_ request: ControlRequest) -> UInt8 {
        var request = request
        if let term = environmentByName()["TERM"] {
            request.environment = (request.environment ?? []) + ["TERM=\(term)"]
        }
        // The program may ask for the size before the answer is here.
        if let (rows, columns) = Terminal.size(0) {
            (request.rows, request.columns) = (UInt16(clamping: rows), UInt16(clamping: columns))
        }
        _ = started(client.ask(request))
        guard let master = client.connection.received.first else { fail("the workspace sent no terminal", 70) }
        client.connection.received = []
        Terminal.copySize(from: 0, to: master.number)
        let settings = Terminal.makeRaw(0)
        let code = relay(master)
        if let settings { Terminal.restore(0, settings) }
        guard let code else { fail("the workspace ended", ExitCodes.noSuchWorkspace) }
        return code
    }

    /// Copies between our terminal and the workspace's until the program has ended and all its output is shown.
    private func relay(_ master: Descriptor) -> UInt8? {
        guard let poller = try? Poller(), let signals = try? SignalReader([.windowChanged]) else { return 70 }
        let inputIsPollable = (try? poller.add(0, .readable, token: 0)) != nil
        try? poller.add(master.number, .readable, token: 1)
        try? poller.add(client.connection.descriptor.number, .readable, token: 2)
        try? poller.add(signals.number, .readable, token: 3)
        var buffer = [UInt8](repeating: 0, count: 16384)
        // A program that ends at once may be answered for together with its start.
        var code = client.connection.hasLine ? client.answer()?.exitCode : nil
        var masterIsOpen = true
        while code == nil || masterIsOpen {
            guard let count = try? poller.wait(inputIsPollable ? nil : .seconds(1)) else { return nil }
            if count == 0, code != nil { return code }
            for index in 0..<count {
                switch poller.event(index).token {
                case 0:
                    guard case .bytes(let n) = Kernel.read(0, into: &buffer), n > 0 else {
                        poller.remove(0)
                        writeAll([4], to: master.number)  // end of input: ^D
                        continue
                    }
                    writeAll(Array(buffer[..<n]), to: master.number)
                case 1:
                    guard case .bytes(let n) = Kernel.read(master.number, into: &buffer), n > 0 else {
                        poller.remove(master.number)
                        masterIsOpen = false
                        continue
                    }
                    writeAll(Array(buffer[..<n]), to: 1)
                case 2:
                    guard let response = client.answer() else { return code }
                    code = response.exitCode
                default: while signals.next() != nil { Terminal.copySize(from: 0, to: master.number) }
                }
            }
        }
        return code
    }
}
