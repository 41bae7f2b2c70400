/// # Theory of operation
///
/// The variables of devcontainer.json: `${containerEnv:NAME[:default]}`, `${localEnv:NAME[:default]}`,
/// `${containerWorkspaceFolder}`, `${localWorkspaceFolder}` and their `Basename`. A `.gitpod.yml` puts in nothing, but
/// tasks are shell text, so each becomes the expression of the shell with that value.
struct DevcontainerText {
    private enum Part {
        case text(String)
        /// An expression of the shell.
        case shell(String)
    }
    private var parts: [Part] = []
    /// Variables that have no counterpart here, as written.
    private(set) var unknown: [String] = []
    /// Variables of the machine that the editor runs on.
    private(set) var local: [String] = []

    init(_ text: String) {
        var rest = text[...]
        while let dollar = rest.firstIndex(of: "$") {
            add(String(rest[..<dollar]))
            let behind = rest[rest.index(after: dollar)...]
            guard behind.first == "{", let end = behind.firstIndex(of: "}") else {
                add("$")
                rest = behind
                continue
            }
            variable(String(behind[behind.index(after: behind.startIndex)..<end]))
            rest = behind[behind.index(after: end)...]
        }
        add(String(rest))
    }

    private mutating func add(_ text: String) { if !text.isEmpty { parts.append(.text(text)) } }

    private mutating func variable(_ text: String) {
        let fields = text.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false).map(String.init)
        switch fields[0] {
        case "containerWorkspaceFolder", "localWorkspaceFolder": parts.append(.shell("${GITPOD_REPO_ROOT}"))
        case "containerWorkspaceFolderBasename", "localWorkspaceFolderBasename":
            parts.append(.shell("${GITPOD_REPO_ROOT##*/}"))
        case "containerEnv" where fields.count > 1 && isName(fields[1]): environment(fields)
        case "localEnv" where fields.count > 1 && isName(fields[1]), "env" where fields.count > 1 && isName(fields[1]):
            local.append("${\(text)}")
            environment(fields)
        case "devcontainerId":
            unknown.append("${\(text)}")
            add("${\(text)}")
        // The shell's own.
        default: add("${\(text)}")
        }
    }

    private mutating func environment(_ fields: [String]) {
        // The shell takes a default as text within quotes; a brace would end it.
        let fallback = fields.count > 2 ? fields[2].filter { !"\"\\`$}".contains($0) } : nil
        parts.append(.shell("${\(fields[1])\(fallback.map { ":-\($0)" } ?? "")}"))
    }

    private func isName(_ text: String) -> Bool {
        text.first?.isNumber == false && text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
    }

    /// Whether there is a variable of this format in it.
    var hasVariables: Bool {
        if !unknown.isEmpty { return true }
        return parts.contains { if case .shell = $0 { true } else { false } }
    }

    /// As a part of shell text.
    var shellText: String {
        parts.map { part in
            switch part {
            case .text(let text), .shell(let text): text
            }
        }.joined()
    }

    /// As one word of the shell's.
    var shellWord: String {
        if !hasVariables { return Config.shellWord(shellText) }
        let quoted = parts.map { part in
            switch part {
            case .text(let text): text.map { "\"\\`$".contains($0) ? "\\\($0)" : String($0) }.joined()
            case .shell(let text): text
            }
        }
        return "\"\(quoted.joined())\""
    }
}
