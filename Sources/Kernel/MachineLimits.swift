/// What the processes here may use at most: of the machine, or of their container where its cgroup can be seen.
public struct MachineLimits: Hashable, Sendable {
    /// Processors that may be used at the same time.
    public let processors: Int
    /// Memory.
    public let memoryBytes: UInt64

    /// What holds now.
    public static var current: MachineLimits {
        let affinity = Files.text("/proc/self/status")?.split(separator: "\n").first { $0.hasPrefix("Cpus_allowed:") }
        let mask = affinity?.split { $0 == ":" || $0 == "\t" }.last ?? ""
        var processors = mask.compactMap { $0.hexDigitValue?.nonzeroBitCount }.reduce(0, +)
        if let text = Files.text("/sys/fs/cgroup/cpu.max") {
            let words = text.split { $0 == " " || $0 == "\n" }.compactMap { Double($0) }
            if words.count == 2, words[1] > 0 {
                processors = min(processors, max(1, Int((words[0] / words[1]).rounded(.up))))
            }
        }
        let total = Files.text("/proc/meminfo")?.split(separator: "\n").first { $0.hasPrefix("MemTotal:") }
        var memory = total?.split(separator: " ").compactMap { UInt64($0) }.first.map { $0 << 10 } ?? 0
        if let text = Files.text("/sys/fs/cgroup/memory.max"), let limit = UInt64(text.dropLast()) {
            memory = min(memory, limit)
        }
        return MachineLimits(processors: max(1, processors), memoryBytes: memory)
    }
}
