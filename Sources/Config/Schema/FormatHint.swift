internal import Glibc

/// What was probably meant by a text that does not have the form that is asked for.
struct FormatHint {
    /// In parentheses behind a blank; nil for none.
    let text: String?

    init(_ format: Format, _ text: String) {
        let meant: String? =
            switch format {
            case .duration: text.allSatisfy { $0.isASCII && $0.isNumber } && !text.isEmpty ? "\(text)s" : nil
            case .egressRule: Self.rule(text)
            case .url where text.hasPrefix("https://"): "http\(text.dropFirst(5))"
            case .restart where text == "on_failure": "on-failure"
            case .network: NetworkText(text).flatMap { Self.masked(text, $0) }
            default: nil
            }
        self.text = meant.map { " (did you mean \"\($0)\"?)" } ?? Self.explanation(format, text).map { " (\($0))" }
    }

    /// Ports by the names that rules of other programs take.
    private static let services = [
        "http": 80, "https": 443, "ssh": 22, "domain": 53, "dns": 53, "smtp": 25, "ftp": 21, "git": 9418, "ntp": 123,
        "ldap": 389, "ldaps": 636, "imaps": 993, "mysql": 3306, "postgres": 5432, "postgresql": 5432, "redis": 6379,
    ]

    private static func rule(_ text: String) -> String? {
        if let end = text.firstIndex(of: ":"), text[end...].hasPrefix("://") {
            // A URL: its host, and the port that it stands for.
            var rest = text[end...].dropFirst(3).prefix { !"/?#".contains($0) }
            if let user = rest.lastIndex(of: "@") { rest = rest[rest.index(after: user)...] }
            // The colons of an IPv6 address are in brackets.
            let hasPort = (rest.lastIndex(of: "]").map { rest[$0...] } ?? rest).contains(":")
            let port = hasPort ? "" : services[text[..<end].lowercased()].map { ":\($0)" } ?? ""
            let meant = "\(rest)\(port)"
            return EgressRule(meant) != nil ? meant : nil
        }
        if let rule = EgressRule(text), hasHostBits(rule), case .network(let network) = rule.destination {
            return NetworkText(network).flatMap { masked(network, $0) }.map { masked in
                text.prefix { $0 == "[" } + masked + text.dropFirst(network.count + (text.hasPrefix("[") ? 1 : 0))
            }
        }
        if let colon = text.lastIndex(of: ":"), let port = services[text[text.index(after: colon)...].lowercased()] {
            let meant = "\(text[..<colon]):\(port)"
            // `:https` alone: everything on that port.
            return EgressRule(meant) != nil ? meant : colon == text.startIndex ? "*:\(port)" : nil
        }
        if text.first == ":", EgressRule("*" + text) != nil { return "*" + text }
        if let slash = text.firstIndex(of: "/"),
            EgressRule.FlowProtocol(rawValue: String(text[text.index(after: slash)...])) == nil,
            EgressRule(String(text[..<slash])) != nil,
            case .name? = EgressRule(String(text[..<slash]))?.destination
        {
            return String(text[..<slash])
        }
        return nil
    }

    private static func explanation(_ format: Format, _ text: String) -> String? {
        switch format {
        case .duration where text.hasSuffix("d"): return "a day is 24h"
        case .egressRule, .network:
            guard let slash = text.lastIndex(of: "/"), let length = decimal(text[text.index(after: slash)...]),
                let address = NetworkText(text[..<slash])
            else { return nil }
            let limit = address.isIPv4 ? 32 : 128
            return length > limit ? "a network's length is /0 to /\(limit)" : nil
        default: return nil
        }
    }

    /// A network that names one address of itself: `10.0.0.5/24`.
    static func hasHostBits(_ rule: EgressRule) -> Bool {
        guard case .network(let text) = rule.destination, let network = NetworkText(text) else { return false }
        return masked(text, network).map { $0 != text } ?? false
    }

    /// The network as its first address; nil for an address, and for what is in order.
    private static func masked(_ text: String, _ network: NetworkText) -> String? {
        guard let length = network.length, let slash = text.lastIndex(of: "/") else { return nil }
        var bytes = [UInt8](repeating: 0, count: 16)
        let family = network.isIPv4 ? AF_INET : AF_INET6
        guard unsafe inet_pton(family, String(text[..<slash]), &bytes) == 1 else { return nil }
        var isChanged = false
        for index in 0..<(network.isIPv4 ? 4 : 16) {
            let kept = min(8, max(0, length - 8 * index))
            let mask = UInt8(truncatingIfNeeded: 0xff00 >> kept)
            if bytes[index] & ~mask != 0 { isChanged = true }
            bytes[index] &= mask
        }
        guard isChanged else { return nil }
        var name = [CChar](repeating: 0, count: 64)
        guard unsafe inet_ntop(family, bytes, &name, 64) != nil else { return nil }
        let address = String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return "\(address)/\(length)"
    }
}

/// A text that only a shell would take as it is meant; for commands that run without one.
struct ShellSyntax {
    /// What of it a shell would act on.
    let found: String

    private static let operators: Set<String> = ["&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1", "&>", "<<"]
    private static let builtins: Set<String> = [
        "cd", "source", ".", "export", "eval", "set", "ulimit", "if", "for", "while",
    ]
    private static let shells: Set<String> = ["sh", "bash", "dash", "ash", "zsh", "ksh", "fish"]

    /// Nil for a command that is what it seems.
    init?(_ command: String) {
        guard let words = splitWords(command), let first = words.first else { return nil }
        let name = first.split(separator: "/").last.map(String.init) ?? first
        // Its text is for that shell, whatever is in it.
        if Self.shells.contains(name), words.dropFirst().contains(where: { $0.hasPrefix("-") && $0.hasSuffix("c") }) {
            return nil
        }
        if Self.builtins.contains(first) {
            found = first
        } else if let equals = first.firstIndex(of: "="),
            Format.variable.problem(with: String(first[..<equals])) == nil,
            first[..<equals].allSatisfy({ $0.isLetter || $0.isNumber || $0 == "_" })
        {
            found = first
        } else if let word = words.first(where: { Self.operators.contains($0) }) {
            found = word
        } else if words.contains(where: { $0.hasSuffix(";") }) {
            found = ";"
        } else if let word = words.first(where: Self.isExpanded) {
            found = word
        } else {
            return nil
        }
    }

    private static func isExpanded(_ word: String) -> Bool {
        if word.hasPrefix("~/") || word.contains("`") { return true }
        let scalars = Array(word.unicodeScalars)
        return scalars.indices.dropLast().contains { index in
            scalars[index] == "$"
                && (scalars[index + 1] == "{" || scalars[index + 1] == "(" || scalars[index + 1] == "_"
                    || scalars[index + 1].properties.isAlphabetic)
        }
    }
}
