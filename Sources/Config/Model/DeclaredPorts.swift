/// The declared ports as whoever forwards them needs them: a port declared by itself beats a range that holds it, and of
/// equals the first counts.
public struct DeclaredPorts: Hashable, Sendable {
    private struct Declaration: Hashable, Sendable {
        let ports: ClosedRange<UInt16>
        let name: String
        /// http or https, where the file says that one of them is spoken; else empty.
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
                ports: $0.ports, name: $0.name ?? "",
                scheme: $0.networkProtocol ?? ($0.onOpen?.hasPrefix("open-") == true ? "http" : ""),
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

    /// Ports of services that speak something else than HTTP, by IANA's registry and the programs' own defaults.
    private static let otherServices: Set<UInt16> = [
        20, 21, 22, 23, 25, 53, 88, 110, 111, 123, 135, 139, 143, 161, 179, 389, 445, 465, 514, 587, 636, 873, 993, 995,
        1080,
        1194, 1433, 1521, 1883, 2049, 2181, 2376, 3306, 3389, 4222, 5222, 5353, 5432, 5433, 5671, 5672, 5900, 5901,
        6379, 6380,
        6432, 6443, 7687, 8883, 9042, 9092, 9418, 11211, 26257, 27017, 27018, 27019, 33060,
    ]

    /// `http` or `https`, where a browser has something to open: the file says so, or the port is not one of another
    /// service. Nil for the rest.
    public func scheme(of port: UInt16) -> String? {
        let declared = declarations.first { $0.ports.contains(port) }?.scheme ?? ""
        if !declared.isEmpty { return declared }
        return Self.otherServices.contains(port) ? nil : port == 443 || port == 8443 ? "https" : "http"
    }

    /// The name of a port; nil where it has none.
    public func name(of port: UInt16) -> String? {
        guard let name = declarations.first(where: { $0.ports.contains(port) })?.name else { return nil }
        return name.isEmpty ? nil : name
    }
}
