internal import Kernel

/// The supervisor's standard output: units' lines with their names, and notices. A reader that is too slow for it loses
/// lines, counted, and never stops a unit; the log files have them all.
final class Console {
    private let output: Int32
    private let isQuiet: Bool
    private var lost = 0

    init(output: Int32, isQuiet: Bool) {
        self.output = output
        self.isQuiet = isQuiet
    }

    func line(_ bytes: ArraySlice<UInt8>, from name: String) {
        if isQuiet { return }
        var text = Array("[\(name)] ".utf8)
        text += bytes
        text.append(10)
        show(text)
    }

    /// Lines that are complete in themselves.
    func text(_ text: String) { writeLine(text + "\n", to: 2) }

    /// A line of the supervisor's own.
    func notice(_ text: String) { writeLine("workspacekit: \(text)\n", to: 2) }

    private func show(_ bytes: [UInt8]) {
        // KERNEL: a pipe that polls writable takes PIPE_BUF (4096) bytes without blocking (pipe(7)).
        var done = 0
        while done < bytes.count {
            guard waitWritable(output, .milliseconds(100)) else {
                lost += 1
                return
            }
            let end = min(done + 4096, bytes.count)
            guard case .bytes(let n) = Kernel.write(output, Array(bytes[done..<end])) else { return }
            done += n
        }
        if lost > 0 {
            let count = lost
            lost = 0
            notice("\(count) lines were not shown: the reader of standard output is too slow (the logs have them)")
        }
    }
}
