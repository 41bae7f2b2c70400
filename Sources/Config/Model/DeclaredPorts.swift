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
    public init(_ configuration: WorkspaceConfiguration) {
        let units = configuration.services.map(\.options) + configuration.tasks.map(\.options)
        let probed = Set(units.compactMap { $0.healthcheck?.probe.webPort })
        let all = configuration.ports.map { spec in
            let isWeb = spec.onOpen?.hasPrefix("open-") == true || probed.contains { spec.ports == $0...$0 }
            return Declaration(
                ports: spec.ports, name: spec.name ?? "", scheme: spec.networkProtocol ?? (isWeb ? "http" : ""),
                isHidden: spec.onOpen == "ignore-completely")
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

    /// Ports on which HTTP is usual: IANA's registry (http, http-alt, https, pcsync-https), and what web frameworks and their
    /// development servers listen on unless they are told otherwise; those of Next.js, Vite and Python take the next ones when
    /// their first is taken.
    private static let webPorts: [ClosedRange<UInt16>] = [
        80...80, 443...443, 1234...1234, 1313...1313, 3000...3010, 4000...4000, 4200...4200, 4321...4321, 4567...4567,
        5000...5001, 5173...5180, 5601...5601, 6006...6006, 7860...7860, 8000...8010, 8025...8025, 8080...8090,
        8443...8443, 8501...8501, 8787...8787, 8888...8890, 9090...9090, 9200...9200, 9292...9292, 15672...15672,
    ]

    /// `http` or `https`, where a browser has something to open: the configuration says so (`protocol`, `onOpen: open-…`, a
    /// health check over HTTP), or HTTP is usual on the port. Nil for the rest.
    ///
    /// The server is not asked: a server that takes one client would have had it, a debugger would take the request for its
    /// own protocol, and every server would log a client that is none.
    public func scheme(of port: UInt16) -> String? {
        let declared = declarations.first { $0.ports.contains(port) }?.scheme ?? ""
        if !declared.isEmpty { return declared }
        guard Self.webPorts.contains(where: { $0.contains(port) }) else { return nil }
        return port == 443 || port == 8443 ? "https" : "http"
    }

    /// The name of a port; nil where it has none.
    public func name(of port: UInt16) -> String? {
        guard let name = declarations.first(where: { $0.ports.contains(port) })?.name else { return nil }
        return name.isEmpty ? nil : name
    }
}

extension HealthcheckSpec.Probe {
    /// The port of this machine that the probe reaches over HTTP; nil for others.
    fileprivate var webPort: UInt16? {
        guard case .http(let url) = self else { return nil }
        let authority = url.dropFirst("http://".count).prefix { !"/?#".contains($0) }
        for host in ["localhost", "127.0.0.1", "[::1]"] where authority.hasPrefix(host) {
            let rest = authority.dropFirst(host.count)
            return rest.isEmpty ? 80 : rest.first == ":" ? UInt16(rest.dropFirst()) : nil
        }
        return nil
    }
}
