internal import Control
internal import Kernel

/// The summary of a prebuild.
extension Supervisor {
    /// What became of each task; on standard output.
    func printSummary() {
        let tasks = units.indices.filter { units[$0].spec.kind == .task && !engine.isRemoved[$0] }
        let results = tasks.map { id -> PrebuildResult in
            let ending = engine.lastEndings[id]
            var result = PrebuildResult(name: units[id].spec.name, succeeded: ending?.isSuccess == true)
            result.exitCode = ending?.code
            result.seconds = durations[id].map { Double($0.nanoseconds / 1_000_000) / 1000 }
            if !result.succeeded {
                if case .skipped(let reason) = engine.states[id], ending == nil {
                    // A dependency that failed is the reason, also when its end was the last and began the shutdown.
                    let failures = engine.specs[id].dependencies.compactMap { dependency -> String? in
                        if case .failed(let failure) = engine.fulfilment(of: dependency) { failure } else { nil }
                    }
                    result.reason = failures.isEmpty ? waitReasons[id] ?? reason : failures.joined(separator: ", ")
                } else {
                    result.reason = ending?.description
                }
            }
            return result
        }
        if plan.start == .prebuildJSON { return console.result(prettyJSON(results) + "\n") }
        let rows =
            [["TASK", "RESULT", "TIME", "REASON"]]
            + results.map { result in
                [
                    result.name, result.succeeded ? "done" : result.exitCode == nil ? "not run" : "failed",
                    result.seconds.map { "\($0) s" } ?? "-", result.reason ?? "",
                ]
            }
        console.result(tableText(rows))
    }

    /// Why each task that never ran did not, before the shutdown gives all of them one reason.
    func noteWaitReasons() {
        for id in units.indices where engine.states[id] == .waiting {
            waitReasons[id] = engine.waitsFor(id).joined(separator: ", ")
        }
    }
}
