internal import Glibc

/// An IP address or network as a text; the bytes are left to whoever uses it.
struct NetworkText {
    let isIPv4: Bool
    /// The prefix's length; nil for an address.
    let length: Int?

    init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count) else { return nil }
        let address = String(parts[0])
        var bytes = [UInt8](repeating: 0, count: 16)
        let isIPv4 = unsafe inet_pton(AF_INET, address, &bytes) == 1
        guard unsafe isIPv4 || inet_pton(AF_INET6, address, &bytes) == 1 else { return nil }
        var length: Int?
        if parts.count == 2 {
            guard let number = decimal(parts[1]), number <= (isIPv4 ? 32 : 128) else { return nil }
            length = number
        }
        self.isIPv4 = isIPv4
        self.length = length
    }
}

/// A number in plain digits; nil for anything else.
func decimal(_ text: some StringProtocol) -> Int? {
    guard !text.isEmpty, text.utf8.count <= 18, text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
    return Int(text)
}

private func port(_ text: some StringProtocol) -> UInt16? {
    decimal(text).flatMap { UInt16(exactly: $0) }.flatMap { $0 > 0 ? $0 : nil }
}

/// `3000`, `3000-3010` or, as Gitpod reads it too, `3000:3010`; nil for anything else.
func parsePortRange(_ text: some StringProtocol) -> ClosedRange<UInt16>? {
    let parts = text.split(omittingEmptySubsequences: false) { $0 == "-" || $0 == ":" }
    guard (1...2).contains(parts.count), let first = port(parts[0]), let last = port(parts[parts.count - 1]),
        first <= last
    else { return nil }
    return first...last
}

/// `tcp` or `udp`.
public enum TransportProtocol: String, Hashable, Sendable { case tcp, udp }

/// `…/tcp`, `…/udp` or neither: the text before it, and which.
private func splitProtocol(_ text: Substring) -> (rest: Substring, transport: TransportProtocol?)? {
    guard let slash = text.lastIndex(of: "/") else { return (text, nil) }
    guard let transport = TransportProtocol(rawValue: String(text[text.index(after: slash)...])) else { return nil }
    return (text[..<slash], transport)
}

/// `5432/tcp`.
public struct PortAndProtocol: Hashable, Sendable {
    /// The port.
    public var port: UInt16
    /// UDP; else TCP.
    public var isUDP: Bool

    /// Reads `5432`, `5432/tcp` or `53/udp`; nil for anything else.
    public init?(_ text: String) {
        guard let (rest, transport) = splitProtocol(text[...]), let port = Config.port(rest) else { return nil }
        self.port = port
        isUDP = transport == .udp
    }
}

/// `127.0.0.1:8080-8090:80-90/tcp`: ports outside that lead to ports inside, as Compose writes them; with pasta's words for
/// what it lacks: `%eth0:8080` for an interface, `8080-8090,~8085` without some.
public struct ForwardSpec: Hashable, Sendable {
    /// The address outside to listen on; nil for every one.
    public var address: String?
    /// The interface outside that clients must come by; nil for every one.
    public var interface: String?
    /// Outside and inside; equally many.
    public var outside: ClosedRange<UInt16>, inside: ClosedRange<UInt16>
    /// Ports outside that are left out.
    public var excluded: [ClosedRange<UInt16>] = []
    /// TCP where the text names none.
    public var transport: TransportProtocol

    /// Reads `[ADDRESS][%INTERFACE][:]OUTSIDE[,~EXCLUDED…][:INSIDE][/PROTOCOL]`, IPv6 addresses in brackets; nil for
    /// anything else.
    public init?(_ text: String) {
        guard let (rest, transport) = splitProtocol(text[...]), let (interface, unbound) = splitInterface(rest),
            let (address, ports) = splitAddress(unbound)
        else { return nil }
        let parts = ports.split(separator: ":", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count) else { return nil }
        let choice = parts[0].split(separator: ",", omittingEmptySubsequences: false)
        for text in choice.dropFirst() {
            guard text.first == "~", let range = parsePortRange(text.dropFirst()) else { return nil }
            excluded.append(range)
        }
        guard let outside = parsePortRange(choice[0]),
            let inside = parts.count == 1 ? outside : parsePortRange(parts[1]), inside.count == outside.count,
            excluded.allSatisfy({ outside.contains($0.lowerBound) && outside.contains($0.upperBound) })
        else { return nil }
        self.address = address
        self.interface = interface
        self.outside = outside
        self.inside = inside
        self.transport = transport ?? .tcp
    }

    /// As ``init(_:)`` reads it.
    public var text: String {
        func text(_ ports: ClosedRange<UInt16>) -> String {
            ports.count == 1 ? "\(ports.lowerBound)" : "\(ports.lowerBound)-\(ports.upperBound)"
        }
        let place =
            (address.map { $0.contains(":") ? "[\($0)]" : $0 } ?? "") + (interface.map { "%" + $0 } ?? "")
        let without = excluded.map { ",~" + text($0) }.joined()
        return
            "\(place.isEmpty ? "" : place + ":")\(text(outside))\(without):\(text(inside))/\(transport.rawValue)"
    }

    /// Each port outside, and where it leads.
    public var pairs: [(outside: UInt16, inside: UInt16)] {
        zip(outside, inside).filter { pair in !excluded.contains { $0.contains(pair.0) } }.map { ($0, $1) }
    }
}

/// `%eth0` before the ports, behind an address if there is one: the interface's name, and the text without it.
private func splitInterface(_ text: Substring) -> (interface: String?, rest: Substring)? {
    guard let percent = text.firstIndex(of: "%") else { return (nil, text) }
    let behind = text[text.index(after: percent)...]
    guard let colon = behind.firstIndex(of: ":") else { return nil }
    let name = behind[..<colon]
    // IFNAMSIZ is 16 with the terminator.
    guard (1...15).contains(name.utf8.count), name.utf8.allSatisfy({ $0 > 32 && $0 < 127 && $0 != 47 }) else {
        return nil
    }
    let address = text[..<percent]
    let ports = behind[behind.index(after: colon)...]
    return (String(name), address.isEmpty ? ports : Substring(address + ":" + ports))
}

/// An address before the ports: `[::1]:80` or `127.0.0.1:80:80`; nil when there is one that is none.
private func splitAddress(_ text: Substring) -> (address: String?, rest: Substring)? {
    if text.first == "[" {
        guard let close = text.firstIndex(of: "]") else { return nil }
        let address = text[text.index(after: text.startIndex)..<close]
        let rest = text[text.index(after: close)...]
        guard let network = NetworkText(address), !network.isIPv4, network.length == nil, rest.first == ":" else {
            return nil
        }
        return (String(address), rest.dropFirst())
    }
    guard let colon = text.firstIndex(of: ":"), text[..<colon].contains(".") else { return (nil, text) }
    guard let network = NetworkText(text[..<colon]), network.isIPv4, network.length == nil else { return nil }
    return (String(text[..<colon]), text[text.index(after: colon)...])
}

/// Who may connect to a socket at a path (systemd.socket(5): SocketMode, SocketGroup).
public struct SocketAccess: Hashable, Sendable {
    /// The socket's permissions; nil: whoever may enter its directory may connect.
    public var mode: UInt32?
    /// Whose group it is, by name or number; nil: of whoever the unit runs as.
    public var group: String?

    /// Everybody, unless said otherwise.
    public init(mode: UInt32? = nil, group: String? = nil) {
        self.mode = mode
        self.group = group
    }
}

/// A socket to listen on: a path, or `[ADDRESS:]PORT[/PROTOCOL]`.
public enum ListenerSpec: Hashable, Sendable {
    case local(path: String, SocketAccess = SocketAccess())
    /// Every address where none is named.
    case internet(address: String?, port: UInt16, TransportProtocol)

    /// Reads one; nil for anything else. A path is absolute.
    public init?(_ text: String) {
        if text.hasPrefix("/") {
            // sun_path holds 108 bytes with its end.
            guard text.utf8.count <= 107, !text.utf8.contains(0) else { return nil }
            self = .local(path: text)
            return
        }
        guard let (rest, transport) = splitProtocol(text[...]), let (address, portText) = splitAddress(rest),
            let port = Config.port(portText)
        else { return nil }
        self = .internet(address: address, port: port, transport ?? .tcp)
    }
}

extension ListenerSpec: CustomStringConvertible {
    /// The place as it is written.
    public var name: String {
        if case .local(let path, _) = self { return path }
        return description
    }

    /// All that is written about it.
    public var description: String {
        switch self {
        case .local(let path, let access):
            path + (access.mode.map { " \(String($0, radix: 8))" } ?? "") + (access.group.map { " \($0)" } ?? "")
        case .internet(let address, let port, let transport):
            (address.map { $0.contains(":") ? "[\($0)]:" : "\($0):" } ?? "") + "\(port)"
                + (transport == .udp ? "/udp" : "")
        }
    }
}

/// Where the workspace may or may not connect to.
public struct EgressRule: Hashable, Sendable {
    /// What a rule is about.
    public enum Destination: Hashable, Sendable {
        /// An address or network, as written.
        case network(String)
        /// A name; `*.` before it stands for all names below it.
        case name(String)
        case everything
    }
    /// Which flows go there.
    public enum FlowProtocol: String, Hashable, Sendable { case tcp, udp, icmp }
    /// Where the flow goes.
    public var destination: Destination
    /// nil for every port.
    public var ports: ClosedRange<UInt16>?
    /// nil for every one.
    public var flowProtocol: FlowProtocol?

    /// Reads `DESTINATION[:PORT[-PORT]][/tcp|udp|icmp]`; IPv6 with ports stands in brackets. nil for anything else.
    public init?(_ text: String) {
        var rest = text[...]
        if let slash = rest.lastIndex(of: "/"),
            let found = FlowProtocol(rawValue: String(rest[rest.index(after: slash)...]))
        {
            flowProtocol = found
            rest = rest[..<slash]
        }
        if rest.first == "[" {
            guard let close = rest.firstIndex(of: "]") else { return nil }
            let network = rest[rest.index(after: rest.startIndex)..<close]
            guard NetworkText(network) != nil else { return nil }
            destination = .network(String(network))
            rest = rest[rest.index(after: close)...]
            if rest.isEmpty { return }
            guard rest.first == ":", let ports = parsePortRange(rest.dropFirst()) else { return nil }
            self.ports = ports
        } else if NetworkText(rest) != nil {
            destination = .network(String(rest))
        } else {
            if let colon = rest.firstIndex(of: ":") {
                guard let ports = parsePortRange(rest[rest.index(after: colon)...]) else { return nil }
                self.ports = ports
                rest = rest[..<colon]
            }
            if NetworkText(rest) != nil {
                destination = .network(String(rest))
            } else if rest == "*" {
                destination = .everything
            } else {
                let name = rest.hasPrefix("*.") ? rest.dropFirst(2) : rest
                // A name of digits only is a mistyped address.
                guard isDomainName(name), name.contains(where: \.isLetter), !rest.contains("/") else { return nil }
                destination = .name(String(rest))
            }
        }
        if flowProtocol == .icmp, ports != nil { return nil }
    }
}
