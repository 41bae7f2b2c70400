internal import Control
internal import Kernel

/// Reads the units' log files: they are there whether or not the workspace still runs.
struct LogReader {
    private let state: StateDirectory
    private let files: [(name: String, path: String)]
    /// Why nothing can be shown.
    let problem: String?

    init(state: StateDirectory, names: [String]) {
        self.state = state
        let present = Self.logNames(state)
        if names.isEmpty {
            files = present.map { ($0, "\(state.logs)/\($0).log") }
            problem = present.isEmpty ? "no logs in \(state.logs); name another workspace with --state-dir" : nil
            return
        }
        files = names.map { ($0, state.log(of: $0)) }
        let missing = files.first { Files.status($0.path) == nil }
        problem = missing.map { "no log of \"\($0.name)\" (there are: \(present.joined(separator: ", ")))" }
    }

    private static func logNames(_ state: StateDirectory) -> [String] {
        Files.entries(state.logs).filter { $0.hasSuffix(".log") }.map { String($0.dropLast(4)) }.sorted()
    }

    private func write(_ bytes: [UInt8], _ name: String) {
        guard files.count > 1 else { return writeLine(String(decoding: bytes, as: UTF8.self), to: 1) }
        var text = String(decoding: bytes, as: UTF8.self)
        if text.last == "\n" { text.removeLast() }
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            writeLine("[\(name)] \(line)\n", to: 1)
        }
    }

    func printAll() {
        for (name, path) in files {
            for part in [path + ".1", path] {
                if let bytes = try? Files.read(part, limit: 64 << 20), !bytes.isEmpty { write(bytes, name) }
            }
        }
    }

    /// Shows what is added, until the workspace ends. The directory is watched, so that nothing is polled.
    func follow() {
        var positions = files.map { Files.status($0.path)?.size ?? 0 }
        guard let watch = try? watchDirectory(state.logs), let client = try? ControlClient(state) else { return }
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let ended = waitReadable(client.connection.descriptor.number, .zero)
            for (index, file) in files.enumerated() {
                let size = Files.status(file.path)?.size ?? 0
                if size < positions[index] { positions[index] = 0 }
                guard size > positions[index], let bytes = try? Files.read(file.path, limit: 64 << 20) else { continue }
                write(Array(bytes.dropFirst(positions[index])), file.name)
                positions[index] = bytes.count
            }
            if ended { return }
            if waitReadable(watch.number, .seconds(1)) { _ = Kernel.read(watch.number, into: &buffer) }
        }
    }
}
