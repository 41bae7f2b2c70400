/// The phases of a task.
struct PlannedTask: Hashable {
    var before: String?, initialize: String?, prebuild: String?, command: String?
    /// Whether `init` has succeeded; nil for a task without one.
    var marker: InitMarker?
    /// `prebuild` instead of `command`.
    var isPrebuild = false

    /// The shell text of a start: the phases that it runs, each only if the one before succeeded, in one shell, so that
    /// `command` sees what `before` exports.
    func script(runsInit: Bool) -> String {
        var parts: [String] = []
        func add(_ part: String?) { if let part, !isBlank(part) { parts.append("{\n\(part)\n}") } }
        add(before)
        if runsInit { add(initialize) }
        if isPrebuild { add(prebuild) }
        // `prebuild` is a part of what has to succeed.
        if runsInit, let marker { parts.append(marker.command) }
        if !isPrebuild { add(command) }
        return parts.isEmpty ? ":" : parts.joined(separator: " && ")
    }
}
