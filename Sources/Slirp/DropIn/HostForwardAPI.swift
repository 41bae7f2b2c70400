internal import FoundationEssentials
package import Kernel

/// # Theory of operation
///
/// slirp4netns's API: one JSON request a connection, one answer, and the connection is closed. Requests and answers are
/// data here; who makes them come true is told what to do, and says what came of it.
package struct HostForwardAPI {
    /// A port of the outside that leads inside.
    package struct Entry: Hashable, Encodable, Sendable {
        package let id: Int
        package let proto: String
        package let hostAddress: String, guestAddress: String
        package let hostPort: UInt16, guestPort: UInt16

        enum CodingKeys: String, CodingKey {
            case id, proto
            case hostAddress = "host_addr"
            case guestAddress = "guest_addr"
            case hostPort = "host_port"
            case guestPort = "guest_port"
        }
    }

    /// A request is shorter; whoever sends more is told so.
    package static let requestLimit = 4096
    package private(set) var entries: [Entry] = []
    private var nextID = 1
    /// What a request that names no guest means.
    let defaultGuest: IPAddress

    package init(defaultGuest: IPAddress) { self.defaultGuest = defaultGuest }

    /// The answer to a request. `open` and `close` make it come true; `open` is false when it could not.
    package mutating func answer(_ request: [UInt8], open: (Entry) -> Bool, close: (Int) -> Void) -> String {
        if request.count >= Self.requestLimit { return Self.bad("too large message") }
        guard let value = try? JSONDecoder().decode(JSONValue.self, from: Data(request)),
            case .object(let fields) = value
        else { return Self.bad("cannot parse JSON") }
        guard case .string(let verb)? = fields["execute"] else { return Self.bad("no execute found") }
        var arguments: [String: JSONValue] = [:]
        if case .object(let found)? = fields["arguments"] { arguments = found }
        switch verb {
        case "add_hostfwd": return add(arguments, open)
        case "list_hostfwd":
            // What is documented, and what the original answers: clients of either kind find it.
            let list = Self.text(entries)
            return "{\"entries\":\(list),\"return\":{\"entries\":\(list)}}"
        case "remove_hostfwd": return remove(arguments, close)
        default: return Self.bad("unknown execute")
        }
    }

    private mutating func add(_ arguments: [String: JSONValue], _ open: (Entry) -> Bool) -> String {
        func problem(_ name: String) -> String { Self.bad("add_hostfwd: bad arguments.\(name)") }
        guard case .string(let proto)? = arguments["proto"], ["tcp", "udp"].contains(proto) else {
            return problem("proto")
        }
        guard let host = address(arguments["host_addr"], IPAddress(v4: 0)) else { return problem("host_addr") }
        guard let hostPort = port(arguments["host_port"]) else { return problem("host_port") }
        guard let guest = address(arguments["guest_addr"], defaultGuest), guest.isV4 else {
            return problem("guest_addr")
        }
        guard let guestPort = port(arguments["guest_port"]) else { return problem("guest_port") }
        let entry = Entry(
            id: nextID, proto: proto, hostAddress: host.description, guestAddress: guest.description,
            hostPort: hostPort, guestPort: guestPort)
        guard open(entry) else { return Self.bad("add_hostfwd: slirp_add_hostfwd failed") }
        nextID += 1
        entries.append(entry)
        return "{\"return\":{\"id\":\(entry.id)}}"
    }

    private mutating func remove(_ arguments: [String: JSONValue], _ close: (Int) -> Void) -> String {
        guard case .number(let number)? = arguments["id"], let id = Int(exactly: number) else {
            return Self.bad("remove_hostfwd: bad arguments.id")
        }
        guard let index = entries.firstIndex(where: { $0.id == id }) else {
            return Self.bad("remove_hostfwd: bad arguments.id")
        }
        entries.remove(at: index)
        close(id)
        return "{\"return\":{}}"
    }

    /// An address; left out or empty it is the one that is meant then.
    private func address(_ value: JSONValue?, _ fallback: IPAddress) -> IPAddress? {
        switch value {
        case nil, .null?: fallback
        case .string(let text)?: text.isEmpty ? fallback : IPAddress(text)
        default: nil
        }
    }

    private func port(_ value: JSONValue?) -> UInt16? {
        guard case .number(let number)? = value, let port = UInt16(exactly: number), port > 0 else { return nil }
        return port
    }

    private static func text(_ value: some Encodable) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return (try? encoder.encode(value)).map { String(decoding: $0, as: UTF8.self) } ?? "[]"
    }

    private static func bad(_ what: String) -> String { "{\"error\":{\"desc\":\"bad request: \(what)\"}}" }
}

/// A value of which one does not know yet what it is.
package enum JSONValue: Decodable, Hashable, Sendable {
    case null
    case boolean(Bool)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .boolean(value)
        } else if let value = try? container.decode(Double.self) {
            self = .number(value)
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }
}
