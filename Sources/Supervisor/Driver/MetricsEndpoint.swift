internal import Control
internal import Kernel

/// Metrics over HTTP on a local socket: one request a connection, as scrapers send them (RFC 9112). Whoever is slow is not
/// waited for, and makes nobody wait.
struct HTTPExchange {
    let socket: Descriptor
    private var request: [UInt8] = []
    private var response: ArraySlice<UInt8> = []
    private(set) var isAnswered = false
    /// The user of the scraper; nil: it may not know.
    let peer: ControlPeer?
    static let requestLimit = 8192

    init(_ socket: Descriptor, peer: ControlPeer?) {
        self.socket = socket
        self.peer = peer
    }

    /// Reads on; the answer is made once the head is there.
    mutating func read(_ answer: (_ method: String, _ path: String) -> (status: String, body: String)) {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while !isAnswered {
            switch Kernel.read(socket.number, into: &buffer) {
            case .bytes(let count) where count > 0: request += buffer[..<count]
            case .wouldBlock: return
            default: return respond("400 Bad Request", "", for: "")
            }
            if let head = Self.head(request) {
                guard let (method, path) = Self.requestLine(head) else {
                    return respond("400 Bad Request", "", for: "")
                }
                let (status, body) = answer(method, path)
                return respond(status, body, for: method)
            }
            if request.count > Self.requestLimit { return respond("431 Request Header Fields Too Large", "", for: "") }
        }
    }

    private mutating func respond(_ status: String, _ body: String, for method: String) {
        isAnswered = true
        let head =
            "HTTP/1.1 \(status)\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            + "Content-Length: \(body.utf8.count)\r\nConnection: close\r\n\r\n"
        response = Array((head + (method == "HEAD" ? "" : body)).utf8)[...]
    }

    /// Writes on; true when all of it is written, or nobody takes it.
    mutating func write() -> Bool {
        while !response.isEmpty {
            switch LocalSocket.send(socket.number, Array(response)) {
            case .bytes(let count): response = response.dropFirst(count)
            case .wouldBlock: return false
            case .failed: return true
            }
        }
        return isAnswered
    }

    /// Up to the empty line; nil while that has not come.
    static func head(_ bytes: [UInt8]) -> ArraySlice<UInt8>? {
        for index in bytes.indices where bytes[index] == 10 {
            let next = bytes[(index + 1)...]
            if next.first == 10 || next.starts(with: [13, 10]) { return bytes[..<index] }
        }
        return nil
    }

    /// `GET /path HTTP/1.1`: method and path, without what follows a question mark.
    static func requestLine(_ head: ArraySlice<UInt8>) -> (method: String, path: String)? {
        let line = String(decoding: head.prefix { $0 != 13 && $0 != 10 }, as: UTF8.self)
        let words = line.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[2].hasPrefix("HTTP/1."), !words[0].isEmpty else { return nil }
        return (String(words[0]), String(words[1].prefix { $0 != "?" }))
    }
}

extension Supervisor {
    private static let exchangeLimit = 64, exchangesPerUser = 8

    /// Listens for scrapers; without it everything else goes on.
    static func listenForMetrics(
        _ path: String, _ keeper: Keeper, _ upkeep: StateUpkeep, kept: Descriptor?, _ console: Console
    ) -> Descriptor? {
        do {
            let socket = try upkeep.socket(at: path, kept: kept)
            if socket.number != kept?.number { keeper.keep(.metrics, socket) }
            return socket
        } catch {
            console.notice("\(error): metrics are not served")
            return nil
        }
    }

    func acceptScraper() {
        guard let listener = metricsListener, let socket = LocalSocket.accept(listener.number) else { return }
        let peer = peer(of: socket)
        // A user that has as many as one may have makes room itself; the oldest user's goes where all have too many.
        if exchanges.count(where: { $0.peer == peer }) >= Self.exchangesPerUser,
            let oldest = exchanges.firstIndex(where: { $0.peer == peer })
        {
            endExchange(exchanges.remove(at: oldest))
        } else if exchanges.count >= Self.exchangeLimit {
            let oldest = exchanges.firstIndex { $0.peer?.isGuest != false } ?? 0
            endExchange(exchanges.remove(at: oldest))
        }
        let token = Token.scraper | UInt64(UInt32(bitPattern: socket.number))
        guard (try? poller.add(socket.number, .readable, token: token)) != nil else { return }
        // One that is refused is heard first: it would not read an answer that comes before its question.
        exchanges.append(HTTPExchange(socket, peer: peer))
    }

    func serveScraper(_ number: Int32) {
        guard let index = exchanges.firstIndex(where: { $0.socket.number == number }) else { return }
        let wasAnswered = exchanges[index].isAnswered
        if !wasAnswered {
            let isRefused = exchanges[index].peer == nil
            exchanges[index].read { method, path in
                if isRefused { return ("403 Forbidden", "") }
                guard path == "/metrics" else { return ("404 Not Found", "") }
                guard method == "GET" || method == "HEAD" else { return ("405 Method Not Allowed", "") }
                return ("200 OK", metricsText())
            }
        }
        if exchanges[index].write() {
            endExchange(exchanges.remove(at: index))
        } else if exchanges[index].isAnswered, !wasAnswered {
            poller.remove(number)
            try? poller.add(number, .writable, token: Token.scraper | UInt64(UInt32(bitPattern: number)))
        }
    }

    private func endExchange(_ exchange: HTTPExchange) {
        poller.remove(exchange.socket.number)
        if exchanges.isEmpty, clients.isEmpty { CurrentProcess.releaseCode() }
    }

    func metricsText() -> String {
        let durations = stride(from: 0, to: stages.count - stages.count % 2, by: 2).map { index in
            (name: stages[index], seconds: Double(Int64(stages[index + 1]) ?? 0) / 1e9)
        }
        return Exposition(
            status(), usage(), (try? ports()) ?? [], stages: durations, interfaces: Files.text("/proc/net/dev") ?? ""
        ).text
    }

    /// What ring0 has to say.
    func takeReport() {
        let message: ChannelMessage
        switch report.receive() {
        case .message(let received): message = received
        case .nothingYet: return
        case .closed: return poller.remove(report.descriptor.number)
        }
        switch message.kind {
        case "stages":
            stages = message.fields
            _ = saved.add(["stages"] + stages)
        case "client": takeOrigin(message.fields)
        case "flows":
            flowTable = message.descriptors.first
            if let flowTable { keeper.keep(.flowTable, flowTable) }
        case "forwarder ended":
            forwarderEnds.count = message.fields.first.flatMap { Int($0) } ?? forwarderEnds.count + 1
            let fields = ["forwarder", "\(forwarderEnds.count)"]
            if let job = forwarderEnds.job {
                saved.replaceJob(job, fields)
            } else {
                forwarderEnds.job = saved.add(fields)
            }
            var event = WorkspaceEvent(.forwarderEnded, kind: "network")
            event.reason = message.fields.count > 1 ? message.fields[1] : nil
            events.write([event])
        case "denied":
            var event = WorkspaceEvent(.denied, kind: "network")
            event.reason = message.fields.first
            events.write([event])
        default: break
        }
    }
}
