internal import Kernel
internal import SystemPackage

/// The processes below this one. A subreaper has all that its children started, wherever their parents went.
///
/// Where the PID namespace is not the workspace's own, no death of a process ends the others: a stage that ends has to end
/// what is below it first.
enum Descendants {
    private static let limit = 100_000

    /// Their pids, parents before children.
    static func all() -> [Int32] {
        var found: [Int32] = []
        var pending = [CurrentProcess.id]
        while let parent = pending.popLast(), found.count < limit {
            for task in Files.entries("/proc/\(parent)/task") {
                let text = Files.text("/proc/\(parent)/task/\(task)/children") ?? ""
                let children = text.split(separator: " ").compactMap { Int32($0) }
                found += children
                pending += children
            }
        }
        return found
    }

    /// Kills all of them, and collects them; those that appear meanwhile too. Gives up after some seconds, when a process
    /// cannot be killed.
    static func end() {
        for _ in 0..<1000 {
            for pid in all() { send(.kill, to: pid) }
            // Each is collected once, and its orphans are ours by then.
            var isAlone = false
            for _ in 0..<limit {
                guard case .ended = reap() else {
                    if case .noChildren = reap() { isAlone = true }
                    break
                }
            }
            if isAlone { return }
            pause(.milliseconds(5))
        }
    }
}
