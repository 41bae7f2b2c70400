/// The logs whose files are open: at most so many, however many units there are. One that is written to opens its files again,
/// and those of the log that was written to longest ago are closed.
final class OpenLogs {
    /// How many logs may be open; each has two files.
    static let limit = 16
    /// By use, the last one last.
    private var logs: [UnitLog] = []

    /// The log's files are about to be used.
    func use(_ log: UnitLog) {
        if logs.last === log { return }
        logs.removeAll { $0 === log }
        logs.append(log)
        if logs.count > Self.limit { logs.removeFirst().closeFiles() }
    }

    /// The log's files were closed.
    func remove(_ log: UnitLog) { logs.removeAll { $0 === log } }
}
