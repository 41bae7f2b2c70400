internal import Config
internal import Kernel
internal import SystemPackage

/// A healthcheck's `port` or `http`, as a program of its own: whatever it meets, the supervisor does not wait for it.
public enum NetworkProbe {
    /// The arguments that start it: `probe port 5432`, `probe http URL`.
    static func arguments(_ probe: HealthcheckSpec.Probe) -> [String]? {
        switch probe {
        case .port(let port): ["workspacekit", "probe", "port", "\(port)"]
        case .http(let url): ["workspacekit", "probe", "http", url]
        case .program, .shell: nil
        }
    }

    /// The whole life of the process: 0 when it found what it should, else 1 and a line that says what it found. Its caller
    /// ends it when its time is over.
    public static func main(_ arguments: [String]) -> UInt8 {
        guard arguments.count == 2 else { return 64 }
        do {
            if arguments[0] == "port", let port = UInt16(arguments[1]) {
                _ = try connect("localhost", port)
                return 0
            }
            guard arguments[0] == "http", let target = HTTPTarget(arguments[1]) else { return 64 }
            let status = try ask(connect(target.host, target.port), target)
            if (100..<400).contains(status) { return 0 }
            writeLine("\(arguments[1]) answers with status \(status)\n", to: 1)
        } catch {
            writeLine("\(error)\n", to: 1)
        }
        return 1
    }

    /// localhost is both families; other names stand in /etc/hosts or are addresses.
    private static func addresses(_ host: String) -> [IPAddress] {
        if let address = IPAddress(host) { return [address] }
        let hosts = Files.text("/etc/hosts") ?? ""
        let found = hosts.split(separator: "\n").flatMap { line -> [IPAddress] in
            let words = line.prefix { $0 != "#" }.split { $0 == " " || $0 == "\t" }
            guard let first = words.first, words.dropFirst().contains(Substring(host)) else { return [] }
            return IPAddress(String(first)).map { [$0] } ?? []
        }
        return host == "localhost" ? [IPAddress("127.0.0.1"), IPAddress("::1")].compactMap { $0 } : found
    }

    private static func connect(_ host: String, _ port: UInt16) throws(KernelError) -> Int32 {
        var failure = KernelError(call: "find", subject: host, errno: .noSuchAddressOrDevice)
        for address in addresses(host) {
            let endpoint = Endpoint(address, port)
            guard case .success(let socket) = InternetSocket.make(.tcp, v4: address.isV4) else { continue }
            var errno = InternetSocket.connect(socket, to: endpoint)
            if errno == nil, waitWritable(socket, nil) { errno = InternetSocket.takeError(socket) }
            guard let errno else { return socket }
            failure = KernelError(call: "connect to", subject: "\(endpoint)", errno: errno)
            InternetSocket.close(socket)
        }
        throw failure
    }

    /// RFC 9112: the status is the second word of the first line.
    private static func ask(_ socket: Int32, _ target: HTTPTarget) throws(KernelError) -> Int {
        let request =
            "GET \(target.path) HTTP/1.1\r\nHost: \(target.authority)\r\nUser-Agent: workspacekit\r\n"
            + "Accept: */*\r\nConnection: close\r\n\r\n"
        guard case .bytes(let sent) = Kernel.write(socket, Array(request.utf8)), sent == request.utf8.count else {
            throw KernelError(call: "ask", subject: target.authority, errno: .connectionReset)
        }
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1024)
        while answer.count < 64, !answer.contains(10) {
            guard waitReadable(socket, nil), case .bytes(let count) = Kernel.read(socket, into: &buffer), count > 0
            else { throw KernelError(call: "read the answer of", subject: target.authority, errno: .connectionReset) }
            answer += buffer[..<count]
        }
        let words = String(decoding: answer.prefix { $0 != 13 && $0 != 10 }, as: UTF8.self).split(separator: " ")
        guard words.count >= 2, words[0].hasPrefix("HTTP/"), let status = Int(words[1]) else {
            throw KernelError(call: "understand the answer of", subject: target.authority, errno: .badMessage)
        }
        return status
    }
}

/// What there is in `http://HOST[:PORT][/PATH]`.
struct HTTPTarget: Hashable {
    let host: String
    let authority: String
    let port: UInt16
    let path: String

    /// nil for anything else.
    init?(_ url: String) {
        guard url.hasPrefix("http://") else { return nil }
        let rest = url.dropFirst(7)
        let authority = rest.prefix { $0 != "/" && $0 != "?" && $0 != "#" }
        let tail = rest[authority.endIndex...].prefix { $0 != "#" }
        path = tail.first == "/" ? String(tail) : "/" + tail
        var host = authority
        var port: UInt16 = 80
        if authority.first == "[" {
            guard let close = authority.firstIndex(of: "]") else { return nil }
            host = authority[authority.index(after: authority.startIndex)..<close]
            let after = authority[authority.index(after: close)...]
            if !after.isEmpty {
                guard after.first == ":", let number = UInt16(after.dropFirst()) else { return nil }
                port = number
            }
        } else if let colon = authority.lastIndex(of: ":") {
            guard let number = UInt16(authority[authority.index(after: colon)...]) else { return nil }
            host = authority[..<colon]
            port = number
        }
        if host.isEmpty { return nil }
        self.host = String(host)
        self.authority = String(authority)
        self.port = port
    }
}
