/// A set of ports as ranges: small however many ports, and with a short text.
public struct PortSet: Hashable, Sendable, CustomStringConvertible {
    /// In order, without overlap, and never next to each other.
    public let ranges: [ClosedRange<UInt16>]

    /// The set of all ports in those ranges, without those in `excluded`.
    public init(_ ranges: [ClosedRange<UInt16>], without excluded: [ClosedRange<UInt16>] = []) {
        var members = [Bool](repeating: false, count: 65537)
        for range in ranges { for port in range { members[Int(port)] = true } }
        for range in excluded { for port in range { members[Int(port)] = false } }
        var found: [ClosedRange<UInt16>] = []
        var first: Int?
        for port in members.indices {
            if members[port] {
                first = first ?? port
            } else if let begin = first {
                found.append(UInt16(begin)...UInt16(port - 1))
                first = nil
            }
        }
        self.ranges = found
    }

    /// Reads what ``description`` wrote; anything else in it is left out.
    public init(text: String) {
        self.init(
            text.split(separator: " ").compactMap { part in
                let ends = part.split(separator: "-").map { UInt16($0) }
                guard let first = ends.first ?? nil, let last = ends.last ?? nil, first <= last else { return nil }
                return first...last
            })
    }

    /// Whether there is none.
    public var isEmpty: Bool { ranges.isEmpty }

    /// Whether the port is one of them.
    public func contains(_ port: UInt16) -> Bool { ranges.contains { $0.contains(port) } }

    /// `80 3000-3010`.
    public var description: String {
        ranges.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" }.joined(separator: " ")
    }
}
