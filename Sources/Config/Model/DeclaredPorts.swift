/// The declared ports as whoever forwards them needs them: a port declared by itself beats a range that holds it, and of
/// equals the first counts.
public struct DeclaredPorts: Hashable, Sendable {
    private struct Declaration: Hashable, Sendable {
        let ports: ClosedRange<UInt16>
        let name: String
        /// http or https.
        let scheme: String
        /// `ignore-completely`: neither shown nor forwarded.
        let isHidden: Bool
    }
    /// Single ports first, then ranges; each kind in file order.
    private let declarations: [Declaration]

    /// The ports of a configuration.
    public init(_ specs: [PortSpec]) {
        let all = specs.map {
            Declaration(
                ports: $0.ports, name: $0.name ?? "", scheme: $0.networkProtocol ?? "http",
                isHidden: $0.onOpen == "ignore-completely")
        }
        declarations = all.filter { $0.ports.count == 1 } + all.filter { $0.ports.count > 1 }
    }

    /// For the way from one process to another.
    public var fields: [String] {
        declarations.flatMap {
            ["\($0.ports.lowerBound)-\($0.ports.upperBound)", $0.name, $0.scheme, $0.isHidden ? "hidden" : "shown"]
        }
    }

    /// Reads what ``fields`` wrote; anything else in it is left out.
    public init(fields: [String]) {
        declarations = stride(from: 0, to: fields.count - fields.count % 4, by: 4).compactMap { index in
            parsePortRange(fields[index]).map {
                Declaration(
                    ports: $0, name: fields[index + 1], scheme: fields[index + 2],
                    isHidden: fields[index + 3] == "hidden")
            }
        }
    }

    /// What to forward, in layers: each adds its ports to, and takes its hidden ones from, what came before.
    public var layers: [(shown: [ClosedRange<UInt16>], hidden: [ClosedRange<UInt16>])] {
        let ranges = declarations.filter { $0.ports.count > 1 }
        let single = declarations.filter { $0.ports.count == 1 }
        return [ranges, single].map { layer in
            (layer.filter { !$0.isHidden }.map(\.ports), layer.filter(\.isHidden).map(\.ports))
        }
    }

    /// `http` or `https`: what is spoken there.
    public func scheme(of port: UInt16) -> String {
        declarations.first { $0.ports.contains(port) }?.scheme ?? "http"
    }

    /// The name of a port; nil where it has none.
    public func name(of port: UInt16) -> String? {
        guard let name = declarations.first(where: { $0.ports.contains(port) })?.name else { return nil }
        return name.isEmpty ? nil : name
    }
}
