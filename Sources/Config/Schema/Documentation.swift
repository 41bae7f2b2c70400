/// `docs/configuration.md` and `workspacekit.yml(5)`, from the same table as everything else.
public enum Documentation {
    /// A key with its whole path.
    private struct Entry {
        let path: String
        let key: Key
    }

    private static func entries(_ keys: [Key], _ prefix: String) -> [Entry] {
        keys.flatMap { key -> [Entry] in
            let path = prefix.isEmpty ? key.name : "\(prefix).\(key.name)"
            return [Entry(path: path, key: key)] + inner(key.shape, path)
        }
    }

    private static func inner(_ shape: Shape, _ path: String) -> [Entry] {
        switch shape {
        // Sixteen limits that differ in nothing but their names.
        case .record(let keys, _): path.hasSuffix(".ulimits") ? [] : entries(keys, path)
        case .list(let element): inner(element, path + "[]")
        case .table(_, let value): inner(value, path + ".NAME")
        case .oneOf(let shapes, _): shapes.flatMap { inner($0, path) }
        default: []
        }
    }

    /// The table's parts: each a heading, what it is about, and its keys.
    private static var sections: [(title: String, text: String, entries: [Entry])] {
        let gitpod = entries(GitpodKeys.root.filter { $0.name != "workspacekit" }, "")
        let ours = WorkspacekitKeys.root
        func key(_ name: String) -> [Entry] { entries(ours.filter { $0.name == name }, "workspacekit") }
        let unit = WorkspacekitKeys.unit.map { "`\($0.name)`" }.joined(separator: ", ")
        return [
            ("Gitpod's keys", "All keys of Gitpod's schema are read.", gitpod),
            (
                "The workspace",
                "These stand under `workspacekit:`, or in a `.workspacekit.yml` beside the file without that key; both is an error.",
                ours.filter { !["network", "services", "tasks"].contains($0.name) }.flatMap { key($0.name) }
            ),
            ("The network", "`workspacekit.network`", key("network")),
            ("Services", "`workspacekit.services`: Compose's words with Compose's meaning.", key("services")),
            (
                "Tasks",
                "`workspacekit.tasks.NAME` adds to the task of that name what services have too: \(unit).",
                []
            ),
        ]
    }

    private static func type(_ shape: Shape) -> String {
        switch shape {
        case .text(let format):
            switch format {
            case .any, .taskName, .command, .path, .absolutePath, .relativePath: "text"
            case .name, .variable: "name"
            case .portRange: "port or range"
            case .portAndProtocol: "port/protocol"
            case .forward: "forward"
            case .duration: "duration"
            case .size: "size"
            case .mask: "octal number"
            case .processors: "number"
            case .network: "IPv4 network or `auto`"
            case .address: "IP address"
            case .domain: "domain name"
            case .egressRule: "network or name"
            case .user: "user"
            case .signal: "signal"
            case .restart: "restart policy"
            case .expression: "regular expression"
            case .url: "URL"
            case .listener: "path or port"
            }
        case .boolean: "boolean"
        case .integer(let range):
            range.upperBound == .max ? "number from \(range.lowerBound)" : "\(range.lowerBound) to \(range.upperBound)"
        case .choice(let words, _): words.map { "`\($0)`" }.joined(separator: ", ")
        case .list(let element): "list of " + several(element)
        case .record: "mapping"
        case .table(_, let value): "mapping of names to \(several(value))"
        case .variables: "variables"
        case .anything: "any"
        case .oneOf(let shapes, _): shapes.map(type).joined(separator: " or ")
        }
    }

    private static func several(_ shape: Shape) -> String {
        switch shape {
        case .oneOf(let shapes, _): shapes.map(several).joined(separator: " or ")
        case .integer: "numbers, " + type(shape)
        case .text(.address): "IP addresses"
        case .text(.egressRule): "networks or names"
        case .text(.listener): "paths or ports"
        default: type(shape) + "s"
        }
    }

    private static func text(_ value: ScalarValue) -> String { jsonText(Node(value)).filter { $0 != "\"" } }

    private static func effect(_ key: Key) -> String {
        let suffix =
            switch key.standing {
            case .effective: ""
            case .foreign: ". Speaks to other tools: checked, and without effect here"
            case .deprecated: ". Deprecated, and without effect here"
            case .replaced(let other): ". Deprecated: write `\(other)`"
            case .later: ". Known, and without effect in this version"
            }
        return (key.isRequired ? "Required. " : "") + key.summary + suffix
    }

    /// `docs/configuration.md`.
    public static var markdown: String {
        var out = introduction + "\n"
        for section in sections {
            out += "\n## \(section.title)\n\n\(section.text)\n"
            if section.entries.isEmpty { continue }
            out += "\n| key | type | default | effect | example |\n| --- | --- | --- | --- | --- |\n"
            for entry in section.entries {
                let key = entry.key
                let cells = [
                    "`\(entry.path)`", type(key.shape), key.fallback.map { "`\(text($0))`" } ?? "", effect(key),
                    key.example.map { "`\($0)`" } ?? "",
                ]
                out += "| " + cells.map { escaped($0) }.joined(separator: " | ") + " |\n"
            }
        }
        out += "\n## Formats\n\n| format | what it looks like |\n| --- | --- |\n"
        for (name, text) in formats { out += "| \(name) | \(escaped(text)) |\n" }
        out += "\n## Diagnostics\n\n| code | what |\n| --- | --- |\n"
        for code in DiagnosticCode.allCases { out += "| \(code.rawValue) | \(escaped(code.explanation)) |\n" }
        return out
    }

    private static func escaped(_ text: String) -> String {
        text.map { $0 == "|" ? "\\|" : String($0) }.joined()
    }

    private static let introduction = """
        # Configuration

        <!-- Made by `make docs` from Sources/Config/Schema: edit the table there. -->

        `.gitpod.yml` in the workspace directory, or the file that `run --config` names. Scalars follow YAML 1.2: `yes`, `on`,
        `22:22` are strings, `010` is ten. Anchors, aliases and merge keys (`<<`) work; of several documents the first counts.

        Every problem is reported in one go as `FILE:LINE:COLUMN: error|warning: PATH: message` with the line and a caret. An
        error ends `run` with 78 before anything is started or written; an unknown key is a warning, and the rest of the file
        counts. `workspacekit validate` says the same without starting anything, `config show --defaults` shows what holds and
        where it comes from, and `config schema` gives editors completion and checks:

            workspacekit config schema >gitpod.schema.json
            # yaml-language-server: $schema=gitpod.schema.json

        A running workspace follows the file. What changed is planned anew: a unit whose `command` or environment changed is
        started anew, one whose restart policy changed goes on, a new port is forwarded. Nothing else is touched, and an edit
        that cannot be used changes nothing. `workspacekit plan` shows what would happen, `workspacekit reload` does it now.
        """

    private static let formats: [(String, String)] = [
        ("duration", "`500ms`, `30s`, `1m30s`, `2h`; units us, ms, s, m, h"),
        ("size", "`65536`, `512k`, `4m`, `1g`: bytes, by powers of 1024"),
        ("port or range", "`3000`, `\"3000-3010\"`, `3000:3010`"),
        ("port/protocol", "`5432`, `5432/tcp`, `53/udp`"),
        (
            "forward",
            "`[ADDRESS][%INTERFACE]:OUTSIDE[,~EXCLUDED][:INSIDE][/tcp|udp]`, the place only where there is one; ranges of equal length; IPv6 addresses in brackets"
        ),
        (
            "network or name",
            "`ADDRESS`, `CIDR`, `NAME`, `*.NAME` or `*`, then `[:PORT[-PORT]][/tcp|udp|icmp]`; IPv6 with ports in brackets"
        ),
        ("user", "a name, `uid` or `uid:gid`"),
        ("signal", "`SIGTERM`, `TERM` or `15`"),
        ("path or port", "an absolute path, `PORT`, `ADDRESS:PORT`, with `/udp` for datagrams"),
        ("variables", "a mapping, or a list of `NAME=value`; lists and mappings in it become JSON, as with Gitpod"),
    ]

    /// `workspacekit.yml(5)`, in man(7)'s language.
    public static var manualPage: String {
        var out = """
            .\\" Made by `make docs` from Sources/Config/Schema: edit the table there.
            .TH WORKSPACEKIT.YML 5 "" workspacekit "File formats"
            .SH NAME
            workspacekit.yml, .gitpod.yml \\- what a workspace runs, and how
            .SH DESCRIPTION

            """
        out += roff(
            introduction.split(separator: "\n", omittingEmptySubsequences: false).dropFirst(4).joined(separator: "\n"))
        for section in sections {
            out += ".SH \(section.title.uppercased())\n" + roff(section.text)
            for entry in section.entries {
                let key = entry.key
                out += ".TP\n.B \(line(entry.path))\n"
                out += line(effect(key)) + ".\n"
                out += "Type: \(line(type(key.shape)))."
                if let fallback = key.fallback { out += " Default: \(line(text(fallback)))." }
                out += "\n"
                if let example = key.example { out += ".br\nExample: \(line("\(key.name): \(example)"))\n" }
            }
        }
        out += ".SH FORMATS\n"
        for (name, text) in formats { out += ".TP\n.B \(line(name))\n\(line(text)).\n" }
        out += ".SH DIAGNOSTICS\n"
        for code in DiagnosticCode.allCases { out += ".TP\n.B \(code.rawValue)\n\(line(code.explanation)).\n" }
        out += ".SH SEE ALSO\n.BR workspacekit (1)\n"
        return out
    }

    /// Paragraphs, with indented lines as they are.
    private static func roff(_ text: String) -> String {
        var out = ""
        var isExample = false
        for raw in text.split(separator: "\n", omittingEmptySubsequences: false) {
            let indented = raw.hasPrefix("    ")
            if indented != isExample, !raw.isEmpty || !isExample {
                out += indented ? ".PP\n.nf\n" : isExample ? ".fi\n" : ""
                isExample = indented
            }
            out +=
                raw.isEmpty
                ? (isExample ? "" : ".PP\n") : line(indented ? String(raw.dropFirst(4)) : String(raw)) + "\n"
        }
        return out + (isExample ? ".fi\n" : "")
    }

    /// One line of text: backslashes, minus signs and leading dots mean themselves; code is bold.
    private static func line(_ text: String) -> String {
        var out = ""
        var isCode = false
        for character in text {
            switch character {
            case "\\": out += "\\e"
            case "-": out += "\\-"
            case "`":
                isCode.toggle()
                out += isCode ? "\\fB" : "\\fR"
            default: out.append(character)
            }
        }
        return out.first == "." || out.first == "'" ? "\\&" + out : out
    }
}
