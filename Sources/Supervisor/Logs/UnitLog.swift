internal import Kernel
internal import SystemPackage

/// A unit's output: to a file of at most 4 MiB, with one older one beside it, and line by line to the console.
final class UnitLog {
    static let fileLimit = 4 << 20
    let name: String
    private let path: String
    private let console: Console
    private var file: Descriptor?
    private var size = 0
    private var splitter = LineSplitter()
    private var hasFailed = false

    init(name: String, path: String, console: Console) {
        self.name = name
        self.path = path
        self.console = console
        try? Files.remove(path)
        open()
    }

    private func open() {
        do {
            file = try Files.openForAppending(path, mode: 0o600)
            size = 0
        } catch { fail("\(error)") }
    }

    private func fail(_ reason: String) {
        file = nil
        if !hasFailed { console.notice("\(name): its log is not written: \(reason)") }
        hasFailed = true
    }

    /// Takes what the unit wrote; `eachLine` gets its lines, once they are shown.
    func write(_ bytes: ArraySlice<UInt8>, eachLine: (ArraySlice<UInt8>) -> Void) {
        if let file {
            if size + bytes.count > Self.fileLimit {
                try? Files.rename(path, to: path + ".1")
                open()
            }
            switch Kernel.write(file.number, Array(bytes)) {
            case .bytes(let n):
                size += n
                if n < bytes.count { fail("no space left") }
            case .failed(let errno): fail(errno.description)
            case .wouldBlock: break
            }
        }
        splitter.feed(bytes) {
            console.line($0, from: name)
            eachLine($0)
        }
    }

    /// The unit's process has closed its output.
    func finish() { splitter.finish { console.line($0, from: name) } }
}

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
