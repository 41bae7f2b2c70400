package import Kernel

/// Which frames are wanted, in the words that everybody knows from pcap-filter(7): `tcp port 443 and not host 10.0.2.3`. Pure.
package indirect enum CaptureFilter: Hashable, Sendable {
    case everything
    case kind(PacketSummary.Kind)
    case version(isIPv6: Bool)
    case network(Subnet, Side)
    case port(UInt16, Side)
    case not(CaptureFilter)
    case both(CaptureFilter, CaptureFilter)
    case either(CaptureFilter, CaptureFilter)

    /// Which end is meant.
    package enum Side: Hashable, Sendable { case any, source, destination }

    /// Why a filter cannot be understood.
    package struct SyntaxError: Error, Hashable, CustomStringConvertible {
        package let description: String
    }

    /// Reads a filter; no words mean everything.
    package init(_ text: String) throws(SyntaxError) {
        var words: [String] = [""]
        for character in text {
            if "()!".contains(character) {
                words += [String(character), ""]
            } else if character == " " || character == "\t" {
                words.append("")
            } else {
                words[words.count - 1].append(character)
            }
        }
        var reader = Reader(words: words.filter { !$0.isEmpty }[...])
        if reader.words.isEmpty {
            self = .everything
            return
        }
        self = try reader.readEither()
        if let rest = reader.words.first { throw SyntaxError(description: "\"\(rest)\" is not expected there") }
    }

    /// Whether a frame is wanted.
    package func matches(_ packet: PacketSummary) -> Bool {
        switch self {
        case .everything: return true
        case .kind(let kind): return packet.kind == kind
        case .version(let isIPv6): return packet.kind != .arp && packet.source != nil && packet.isIPv6 == isIPv6
        case .network(let subnet, let side):
            let isSource = packet.source.map { subnet.contains($0) } ?? false
            let isDestination = packet.destination.map { subnet.contains($0) } ?? false
            return side.picks(isSource, isDestination)
        case .port(let port, let side): return side.picks(packet.sourcePort == port, packet.destinationPort == port)
        case .not(let filter): return !filter.matches(packet)
        case .both(let a, let b): return a.matches(packet) && b.matches(packet)
        case .either(let a, let b): return a.matches(packet) || b.matches(packet)
        }
    }

    private struct Reader {
        var words: ArraySlice<String>
        private var depth = 0

        init(words: ArraySlice<String>) { self.words = words }

        private mutating func take(_ wanted: String...) -> Bool {
            guard let first = words.first, wanted.contains(first) else { return false }
            words = words.dropFirst()
            return true
        }

        mutating func readEither() throws(SyntaxError) -> CaptureFilter {
            depth += 1
            defer { depth -= 1 }
            guard depth < 64 else { throw SyntaxError(description: "it is nested too deeply") }
            var filter = try readBoth()
            while take("or", "||") { filter = .either(filter, try readBoth()) }
            return filter
        }

        private mutating func readBoth() throws(SyntaxError) -> CaptureFilter {
            var filter = try readOne()
            while let next = words.first, ![")", "or", "||"].contains(next) {
                _ = take("and", "&&")
                filter = .both(filter, try readOne())
            }
            return filter
        }

        private mutating func readOne() throws(SyntaxError) -> CaptureFilter {
            var isNegated = false
            while take("not", "!") { isNegated.toggle() }
            let filter = try readPrimitive()
            return isNegated ? .not(filter) : filter
        }

        private mutating func readPrimitive() throws(SyntaxError) -> CaptureFilter {
            if take("(") {
                let filter = try readEither()
                guard take(")") else { throw SyntaxError(description: "a \")\" is missing") }
                return filter
            }
            let side: Side = take("src") ? .source : take("dst") ? .destination : .any
            guard let word = words.popFirst() else { throw SyntaxError(description: "something is missing at the end") }
            switch word {
            case "tcp", "udp", "icmp", "icmp6", "arp":
                if side == .any, let kind = PacketSummary.Kind(rawValue: word) { return .kind(kind) }
            case "ip" where side == .any: return .version(isIPv6: false)
            case "ip6" where side == .any: return .version(isIPv6: true)
            case "port":
                guard let text = words.popFirst(), let port = UInt16(text) else {
                    throw SyntaxError(description: "\"port\" needs a number up to 65535")
                }
                return .port(port, side)
            case "host", "net":
                guard let text = words.popFirst(), let subnet = Self.network(text) else {
                    throw SyntaxError(description: "\"\(word)\" needs an address or a network")
                }
                return .network(subnet, side)
            default:
                if let subnet = Self.network(word) { return .network(subnet, side) }
            }
            throw SyntaxError(
                description: "\"\(word)\" is none of tcp, udp, icmp, icmp6, arp, ip, ip6, host, net, port, src, dst")
        }

        private static func network(_ text: String) -> Subnet? {
            Subnet(text) ?? IPAddress(text).map { Subnet($0, $0.isV4 ? 32 : 128) }
        }
    }
}

extension CaptureFilter.Side {
    fileprivate func picks(_ isSource: Bool, _ isDestination: Bool) -> Bool {
        switch self {
        case .any: isSource || isDestination
        case .source: isSource
        case .destination: isDestination
        }
    }
}
