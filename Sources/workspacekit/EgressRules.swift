internal import Config
internal import Kernel
internal import Slirp

extension EgressPolicy {
    /// The policy that the configuration describes.
    init(_ spec: EgressSpec) {
        self.init()
        allowsByDefault = spec.isAllowedByDefault ?? true
        rules = spec.denied.map { Rule(allows: false, $0) } + spec.allowed.map { Rule(allows: true, $0) }
    }
}

extension String {
    fileprivate func trimmingSuffix(_ suffix: String) -> String {
        hasSuffix(suffix) ? String(dropLast(suffix.count)) : self
    }
}

extension EgressPolicy.Rule {
    fileprivate init(allows: Bool, _ rule: EgressRule) {
        let destination: EgressPolicy.Destination
        switch rule.destination {
        case .everything: destination = .everything
        case .name(let name):
            let lower = name.lowercased().trimmingSuffix(".")
            destination = lower.hasPrefix("*.") ? .namesBelow(String(lower.dropFirst(2))) : .name(lower)
        case .network(let text):
            let host = IPAddress(text).map { Subnet($0, $0.isV4 ? 32 : 128) }
            guard let subnet = Subnet(text) ?? host else {
                fail("network.egress: \(text) is no network", ExitCodes.configuration)
            }
            destination = .network(subnet)
        }
        self.init(allows: allows, destination)
        ports = rule.ports
        transport = rule.flowProtocol.flatMap { EgressPolicy.Transport(rawValue: $0.rawValue) }
    }
}
