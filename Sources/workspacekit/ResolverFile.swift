internal import Kernel
internal import Slirp

/// resolv.conf(5), as far as we read and write it. Pure.
struct ResolverFile {
    private let lines: [Substring]

    init(_ text: String) { lines = text.split(separator: "\n", omittingEmptySubsequences: false) }

    private static func words(_ line: Substring) -> [Substring] { line.split { $0 == " " || $0 == "\t" } }

    /// The name servers, in order.
    var servers: [NameServer] {
        lines.compactMap { line in
            let words = Self.words(line)
            guard words.count >= 2, words[0] == "nameserver" else { return nil }
            return NameServer(String(words[1]))
        }
    }

    /// What resolvers append to names: the last line that says so counts.
    var searchDomains: [String] {
        let words = lines.map(Self.words).last { $0.count >= 2 && ($0[0] == "search" || $0[0] == "domain") }
        return words?.dropFirst().map(String.init) ?? []
    }

    /// The file for the workspace: its own name servers, its own search domains if it has any, everything else as outside.
    func replacing(servers: [IPAddress], search: [String]) -> String {
        let own = search.isEmpty ? ["search", "domain", "options", "sortlist"] : ["options", "sortlist"]
        let kept = lines.filter { own.contains(String(Self.words($0).first ?? "")) }
        let domains = search.isEmpty ? [] : ["search " + search.joined(separator: " ")]
        return (servers.map { "nameserver \($0)" } + domains + kept.map(String.init)).joined(separator: "\n") + "\n"
    }
}

/// hosts(5) for the workspace. Pure.
enum HostsFile {
    /// The container's file with a name for the outside, and with the host name on loopback, unless the container's address
    /// is the workspace's.
    static func inside(_ text: String, hostName: String, gateway: IPAddress, keepsAddress: Bool) -> String {
        var lines: [String] = []
        for line in text.split(separator: "\n") {
            let words = line.prefix { $0 != "#" }.split { $0 == " " || $0 == "\t" }
            let isOwn = words.count >= 2 && words.dropFirst().contains { $0 == hostName } && !words[0].hasPrefix("127.")
            if !isOwn || keepsAddress { lines.append(String(line)) }
        }
        if !lines.contains(where: { $0.split { $0 == " " || $0 == "\t" }.contains("localhost") }) {
            lines.append("127.0.0.1 localhost")
        }
        let isNamed =
            keepsAddress && lines.contains { $0.split { $0 == " " || $0 == "\t" }.contains { $0 == hostName } }
        if hostName != "localhost", !isNamed { lines.append("127.0.0.1 \(hostName)") }
        lines.append("\(gateway) host.workspacekit.internal")
        return lines.joined(separator: "\n") + "\n"
    }
}
