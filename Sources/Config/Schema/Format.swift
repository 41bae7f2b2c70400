internal import Glibc

/// What a scalar's text has to look like. Texts are judged as written: `010` is a port like any other.
public enum Format: String, Sendable, CaseIterable {
    /// Anything.
    case any
    /// A unit's name.
    case name
    /// A whole task name: anything but nothing.
    case taskName
    /// A name of an environment variable.
    case variable
    /// `3000`, `3000-3010`, `3000:3010`.
    case portRange
    /// `5432/tcp`.
    case portAndProtocol
    /// `[ADDRESS:]OUTSIDE[-END]:INSIDE[-END][/tcp|udp]`.
    case forward
    /// `500ms`, `1m30s`.
    case duration
    /// `64k`, `4m`.
    case size
    /// An IPv4 network from which a workspace's addresses are taken.
    case network
    /// An IP address of either family.
    case address
    /// A DNS name.
    case domain
    /// `CIDR[:PORT][/PROTOCOL]` or a name, with `*` as its first label.
    case egressRule
    /// A user's name, or `uid[:gid]`.
    case user
    /// `SIGTERM`, `TERM` or a number.
    case signal
    /// A path that stays in the workspace.
    case relativePath
    /// A command line, split at blanks as Compose does.
    case command
    /// Compose's words.
    case restart
    /// A POSIX extended regular expression.
    case expression
    /// `http://…`.
    case url
    /// A socket to listen on: a path, or `[ADDRESS:]PORT`.
    case listener
    /// A path.
    case path
    /// A path from the root on.
    case absolutePath
    /// The bits of umask(2), octal.
    case mask
    /// A number of processors, with a fraction.
    case processors

    /// What the text has to be, in words: `expected …`.
    var expectation: String {
        switch self {
        case .any, .taskName: "a string"
        case .name: "a name of letters, digits, \"-\", \"_\" and \".\""
        case .variable: "a variable's name"
        case .portRange: "a port number from 1 to 65535 or a range such as \"3000-3010\""
        case .portAndProtocol: "a port such as 5432/tcp"
        case .forward:
            "a forward such as 8080:80/tcp, 127.0.0.1:5432:5432, %eth0:8443:443 or 6000-6010,~6005:7000-7010/udp"
        case .duration: "a duration such as 500ms, 30s or 1m30s"
        case .size: "a size such as 512k, 4m or 1g"
        case .network: "auto, or an IPv4 network of /8 to /25 such as 10.0.2.0/24"
        case .address: "an IP address"
        case .domain: "a domain name"
        case .egressRule: "a network or name such as 10.0.0.0/8, [2001:db8::/32]:443/tcp or *.npmjs.org:443"
        case .user: "a user's name or uid[:gid]"
        case .signal: "a signal such as SIGTERM"
        case .relativePath: "a path inside the workspace"
        case .command: "a command"
        case .restart: "no, always, on-failure[:max] or unless-stopped"
        case .expression: "a POSIX extended regular expression"
        case .url: "a URL such as http://localhost:8080/healthz"
        case .listener: "a path such as /run/web.sock, a port or ADDRESS:PORT"
        case .path: "a path"
        case .absolutePath: "an absolute path such as /run"
        case .mask: "an octal number from 0 to 777 such as 022"
        case .processors: "a number of processors from 0.01 to 8192 such as 1.5"
        }
    }

    /// What is wrong with the text; nil when it is in order.
    func problem(with text: String) -> String? {
        switch self {
        case .relativePath: return staysInside(text) ? nil : "the path leads out of the workspace: \"\(text)\""
        case .command:
            guard let words = splitWords(text) else { return "a quote is not closed" }
            return words.isEmpty ? "the command is empty" : nil
        case .expression: return expressionProblem(text)
        default:
            if accepts(text) { return nil }
            let hint =
                FormatHint(self, text).text ?? nearest(to: text, in: words).map { " (did you mean \"\($0)\"?)" } ?? ""
            return "expected \(expectation), found \(text.isEmpty ? "an empty text" : "\"\(text)\"")\(hint)"
        }
    }

    /// Words that a mistyped text may have been meant as.
    private var words: [String] {
        switch self {
        case .restart: ["no", "always", "on-failure", "unless-stopped"]
        case .signal: signalNames.map { "SIG" + $0 }
        default: []
        }
    }

    /// The one spelling of several; nil to leave the value as written.
    func canonical(_ text: String) -> ScalarValue? {
        switch self {
        case .portRange:
            guard let range = parsePortRange(text) else { return nil }
            return range.count == 1
                ? .integer(Int(range.lowerBound)) : .string("\(range.lowerBound)-\(range.upperBound)")
        case .restart: return text == "false" ? .string("no") : nil
        default: return nil
        }
    }

    private func accepts(_ text: String) -> Bool {
        switch self {
        case .any, .relativePath, .command, .expression: return true
        case .taskName, .path: return !text.isEmpty && !text.utf8.contains(0)
        case .absolutePath: return text.hasPrefix("/") && text.utf8.allSatisfy { $0 >= 32 && $0 != 127 }
        case .name: return isUnitName(text)
        case .variable: return !text.isEmpty && text.utf8.allSatisfy { $0 > 32 && $0 != 61 && $0 != 127 }
        case .portRange: return parsePortRange(text) != nil
        case .portAndProtocol: return PortAndProtocol(text) != nil
        case .forward: return ForwardSpec(text) != nil
        case .duration: return parseDuration(text) != nil
        case .size: return parseSize(text) != nil
        case .mask: return parseMask(text) != nil
        case .processors: return parseProcessors(text) != nil
        case .network:
            if text == "auto" { return true }
            guard let network = NetworkText(text), network.isIPv4, let length = network.length else { return false }
            return (8...25).contains(length)
        case .address: return NetworkText(text).map { $0.length == nil } ?? false
        case .domain: return isDomainName(text)
        case .egressRule: return EgressRule(text).map { !FormatHint.hasHostBits($0) } ?? false
        case .user:
            let parts = text.split(separator: ":", omittingEmptySubsequences: false)
            return !text.isEmpty && text.utf8.allSatisfy { $0 > 32 && $0 != 127 } && parts.count <= 2
                && (parts.count == 1 || parts.allSatisfy { UInt32($0) != nil })
        case .signal: return isSignalName(text)
        case .restart: return RestartPolicy(text) != nil
        case .url:
            guard text.hasPrefix("http://") else { return false }
            let host = text.dropFirst(7).prefix { $0 != "/" && $0 != "?" }
            return !host.isEmpty && text.utf8.allSatisfy { $0 > 32 && $0 < 127 }
        case .listener: return ListenerSpec(text) != nil
        }
    }

    /// A regular expression (ECMA 262) for editors, looser than the check itself; nil for none.
    var pattern: String? {
        switch self {
        case .any, .command, .expression, .relativePath: nil
        case .taskName, .path: "."
        case .absolutePath: "^/"
        case .name: "^[A-Za-z0-9._-]+$"
        case .variable: "^[^=\\s]+$"
        case .portRange: "^[0-9]{1,5}([:-][0-9]{1,5})?$"
        case .portAndProtocol: "^[0-9]{1,5}(/(tcp|udp))?$"
        case .forward:
            "^([^/]+:)?[0-9]{1,5}(-[0-9]{1,5})?(,~[0-9]{1,5}(-[0-9]{1,5})?)*(:[0-9]{1,5}(-[0-9]{1,5})?)?(/(tcp|udp))?$"
        case .duration: "^([0-9]+([.][0-9]+)?(us|ms|s|m|h))+$"
        case .mask: "^[0-7]{1,4}$"
        case .processors: "^[0-9]{1,4}([.][0-9]{1,3})?$"
        case .size: "^[0-9]+([bBkKmMgG]|[kKmMgG][bB])?$"
        case .network: "^(auto|[0-9.]+/[0-9]{1,2})$"
        case .address: "^[0-9A-Fa-f.:]+$"
        case .domain: "^[A-Za-z0-9_.-]+$"
        case .egressRule: "^[][A-Za-z0-9*_.:/-]+$"
        case .user: "^[^:\\s]+(:[0-9]+)?$"
        case .signal: "^((SIG|sig)?[A-Za-z0-9]+([+-][0-9]{1,2})?)$"
        case .restart: "^(no|always|unless-stopped|on-failure(:[1-9][0-9]*)?)$"
        case .url: "^http://[^/?\\s]+"
        case .listener: "^(/.+|.*[0-9]{1,5}(/(tcp|udp))?)$"
        }
    }

    /// Whether a number written without quotes is meant as this text.
    var takesNumbers: Bool {
        switch self {
        case .portRange, .portAndProtocol, .forward, .size, .user, .signal, .listener, .processors: true
        default: false
        }
    }
}

private func staysInside(_ path: String) -> Bool {
    !path.split(separator: "/").contains("..") && !path.utf8.contains(0)
}

private func isUnitName(_ text: String) -> Bool {
    !text.isEmpty && text.utf8.count <= 128
        && text.utf8.allSatisfy { byte in
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
                || [45, 46, 95].contains(byte)
        }
}

/// RFC 1123 names, and the underscores that the field uses.
func isDomainName(_ text: some StringProtocol) -> Bool {
    let bare = text.hasSuffix(".") ? Substring(text.dropLast()) : Substring(text)
    guard !bare.isEmpty, bare.utf8.count <= 253 else { return false }
    return bare.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { label in
        !label.isEmpty && label.utf8.count <= 63 && label.first != "-" && label.last != "-"
            && label.utf8.allSatisfy { byte in
                (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 45
                    || byte == 95
            }
    }
}

private func isSignalName(_ text: String) -> Bool {
    let upper = text.uppercased()
    if let number = Int(text) { return (1...64).contains(number) }
    let bare = upper.hasPrefix("SIG") ? String(upper.dropFirst(3)) : upper
    return signalNames.contains(bare) || isRealTimeSignal(bare)
}

/// `RTMIN`, `RTMIN+3`, `RTMAX-2`: glibc's SIGRTMIN is 34 and its SIGRTMAX 64.
private func isRealTimeSignal(_ name: String) -> Bool {
    for (base, sign) in [("RTMIN", "+"), ("RTMAX", "-")] where name.hasPrefix(base) {
        let rest = name.dropFirst(5)
        if rest.isEmpty { return true }
        guard rest.hasPrefix(sign), let offset = decimal(rest.dropFirst()) else { return false }
        return offset <= 30
    }
    return false
}

/// signal(7), by number from 1.
let signalNames = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
]

/// What regcomp(3) has against a text; nil for nothing.
private func expressionProblem(_ text: String) -> String? {
    guard !text.isEmpty, !text.utf8.contains(0) else { return "the expression is empty" }
    // glibc compiles repetitions by copying: some small texts cost gigabytes. Ours are for one line of a log.
    guard text.utf8.count <= 512, repetitionCost(text) <= 1000 else {
        return "the expression is too large: 512 bytes, and repetitions of 1000 in all"
    }
    var compiled = unsafe regex_t()
    let code = unsafe regcomp(&compiled, text, REG_EXTENDED | REG_NOSUB)
    guard code != 0 else {
        unsafe regfree(&compiled)
        return nil
    }
    var message = [CChar](repeating: 0, count: 128)
    _ = unsafe regerror(code, &compiled, &message, message.count)
    return "no regular expression: "
        + String(decoding: message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// The product of the largest bounds in braces: how often a part may be copied.
private func repetitionCost(_ text: String) -> Int {
    var cost = 1
    var number = 0
    var largest = 0
    var isInside = false
    for byte in text.utf8 {
        switch byte {
        case 123: (isInside, number, largest) = (true, 0, 0)
        case 125 where isInside:
            isInside = false
            cost = min(cost * max(1, max(number, largest)), 1 << 20)
        case 48...57 where isInside: number = min(number * 10 + Int(byte - 48), 1 << 20)
        case 44 where isInside: (largest, number) = (max(largest, number), 0)
        default: isInside = false
        }
    }
    return cost
}
