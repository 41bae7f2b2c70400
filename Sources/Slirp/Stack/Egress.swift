public import Kernel

/// Where the workspace may connect to, by networks, ports, protocols and names.
public struct EgressPolicy: Hashable, Sendable {
    /// What a rule is about.
    public enum Destination: Hashable, Sendable {
        case network(Subnet)
        /// One name, or all names below one, in lower case.
        case name(String), namesBelow(String)
        case everything
    }
    /// The protocols that rules tell apart.
    public enum Transport: String, Hashable, Sendable { case tcp, udp, icmp }

    /// One rule.
    public struct Rule: Hashable, Sendable {
        /// It allows; else it denies.
        public var allows: Bool
        /// Where to.
        public var destination: Destination
        /// nil for every port.
        public var ports: ClosedRange<UInt16>?
        /// nil for every one.
        public var transport: Transport?

        /// A rule for every port and protocol.
        public init(allows: Bool, _ destination: Destination) {
            self.allows = allows
            self.destination = destination
        }
    }

    /// What holds where no rule does.
    public var allowsByDefault = true
    /// A rule that denies comes before every rule that allows.
    public var rules: [Rule] = []
    /// Rules at most.
    public static let ruleLimit = 400

    /// Everything is allowed.
    public init() {}

    /// Nothing is to be decided.
    public var isOpen: Bool { allowsByDefault && rules.isEmpty }
}

extension EgressPolicy.Rule: CustomStringConvertible {
    /// As the configuration writes it: `*.npmjs.org:443/tcp`.
    public var description: String {
        let ports = ports.map { ":" + ($0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)") } ?? ""
        let place: String
        switch destination {
        case .network(let subnet):
            let isHost = subnet.length == (subnet.address.isV4 ? 32 : 128)
            let text = isHost ? subnet.address.description : subnet.description
            place = ports.isEmpty || subnet.address.isV4 ? text : "[\(text)]"
        case .name(let name): place = name
        case .namesBelow(let name): place = "*." + name
        case .everything: place = "*"
        }
        return place + ports + (transport.map { "/\($0.rawValue)" } ?? "")
    }
}

extension EgressPolicy {
    /// The policy as fields of a channel message: the default, then each rule in five words.
    var fields: [String] {
        [allowsByDefault ? "allow" : "deny"]
            + rules.map { rule in
                let destination =
                    switch rule.destination {
                    case .network(let subnet): "network \(subnet)"
                    case .name(let name): "name \(name)"
                    case .namesBelow(let name): "below \(name)"
                    case .everything: "everything *"
                    }
                let ports = rule.ports.map { "\($0.lowerBound)-\($0.upperBound)" } ?? "*"
                return "\(rule.allows ? "allow" : "deny") \(destination) \(ports) \(rule.transport?.rawValue ?? "*")"
            }
    }

    /// Reads what ``fields`` wrote; nil for anything else: a policy that is understood in part is none.
    init?(fields: some Collection<String>) {
        guard let first = fields.first, fields.count <= Self.ruleLimit + 1 else { return nil }
        allowsByDefault = first == "allow"
        for field in fields.dropFirst() {
            guard let rule = Rule(field: field) else { return nil }
            rules.append(rule)
        }
    }
}

extension EgressPolicy.Rule {
    fileprivate init?(field: String) {
        let words = field.split(separator: " ")
        guard words.count == 5 else { return nil }
        let destination: EgressPolicy.Destination
        switch words[1] {
        case "network":
            guard let subnet = Subnet(words[2]) else { return nil }
            destination = .network(subnet)
        case "name": destination = .name(String(words[2]))
        case "below": destination = .namesBelow(String(words[2]))
        case "everything": destination = .everything
        default: return nil
        }
        self.init(allows: words[0] == "allow", destination)
        if words[3] != "*" {
            let ends = words[3].split(separator: "-").compactMap { UInt16($0) }
            guard ends.count == 2, ends[0] <= ends[1] else { return nil }
            ports = ends[0]...ends[1]
        }
        if words[4] != "*" {
            guard let transport = EgressPolicy.Transport(rawValue: String(words[4])) else { return nil }
            self.transport = transport
        }
    }

    func covers(_ flow: EgressPolicy.Transport, _ port: UInt16) -> Bool {
        (transport == nil || transport == flow) && (ports?.contains(port) ?? true)
    }

    /// Whether the rule speaks of the name; nothing about ports.
    func names(_ name: String) -> Bool {
        switch destination {
        case .name(let own): name == own
        case .namesBelow(let parent): name.hasSuffix(parent) && name.dropLast(parent.count).hasSuffix(".")
        case .everything: true
        case .network(let subnet): subnet.length == 0
        }
    }
}

/// # Theory of operation
///
/// What ``EgressPolicy`` means for a flow, decided when it begins: a rule that denies, then one that allows, then the
/// default. Networks, ports and protocols speak for themselves. A rule with a name covers the addresses that the name had:
/// every answer of the name server goes by here before the workspace sees it, and the addresses in it are pinned to the
/// name for the answer's lifetime. So a name means what the workspace's own look-up said, and an address that was never
/// looked up is nobody's.
///
/// Where nothing is allowed by default a look-up itself is a way out: names that no rule allows are refused before they
/// leave. Datagrams have no beginning; a pair of endpoints that was admitted stays so while it is used.
///
/// Pure: time is a parameter, and everything in it is bounded.
struct Egress: Sendable {
    /// Where a decision is counted: what is built in, then the rules in their order.
    enum Place: Int, CaseIterable {
        case byDefault, metadata, hostLoopback, nowhere, lookups
        static var builtIn: Int { allCases.count }
    }
    enum Verdict: Hashable, Sendable {
        case allowed(place: Int), denied(place: Int)
    }
    enum NameVerdict: Hashable, Sendable {
        case allowed
        /// No rule allows it, or one denies it.
        case refused(place: Int)
        /// Refused too; but a resolver that tries its search domains must go on, which it does only where a name does not
        /// exist.
        case noSuchName(place: Int)
    }

    /// A client uses an answer some time after it came, whatever its lifetime.
    static let leastLifetime = Duration.seconds(5)
    static let pinLimit = 16_384, namesPerAddress = 16
    static let pairLimit = 8192
    /// How long a pair of endpoints stays admitted without a datagram.
    static let pairLifetime = Duration.seconds(120)

    /// It holds for the forwarder's whole life: whoever is inside can edit the configuration, and must not get out by it.
    let policy: EgressPolicy
    /// Domains that resolvers append to names.
    var searchDomains: [String] {
        didSet { lowercaseDomains = searchDomains.map { $0.lowercased() } }
    }
    private var lowercaseDomains: [String]
    /// For each address, the names that it was an answer for, and until when.
    private var pins: [IPAddress: [String: Int64]] = [:]
    private struct Pair: Hashable { let guest: Endpoint, remote: Endpoint }
    private var pairs: [Pair: (usedAt: Int64, place: Int)] = [:]
    private struct Peer: Hashable { let guest: Endpoint, address: IPAddress }
    /// Addresses that a port of the workspace's has sent to, each until when answers from there pass.
    private var peers: [Peer: Int64] = [:]

    init(_ policy: EgressPolicy, searchDomains: [String] = []) {
        self.policy = policy
        self.searchDomains = searchDomains
        lowercaseDomains = searchDomains.map { $0.lowercased() }
    }

    /// Whether what the workspace looks up is to be seen.
    var judgesNames: Bool { !policy.isOpen }

    /// Whether a flow to there may begin.
    func decide(_ transport: EgressPolicy.Transport, _ remote: Endpoint, at now: MonotonicInstant) -> Verdict {
        if policy.isOpen { return .allowed(place: Place.byDefault.rawValue) }
        let embedded = Policy.embedded(remote.address)
        var admitted: Int?
        for (index, rule) in policy.rules.enumerated() where rule.covers(transport, remote.port) {
            if rule.allows, admitted != nil { continue }
            guard covers(rule, remote.address, now) || embedded.map({ covers(rule, $0, now) }) == true else { continue }
            if !rule.allows { return .denied(place: Place.builtIn + index) }
            admitted = Place.builtIn + index
        }
        if let admitted { return .allowed(place: admitted) }
        let place = Place.byDefault.rawValue
        return policy.allowsByDefault ? .allowed(place: place) : .denied(place: place)
    }

    private func covers(_ rule: EgressPolicy.Rule, _ address: IPAddress, _ now: MonotonicInstant) -> Bool {
        switch rule.destination {
        case .everything: true
        case .network(let subnet): subnet.contains(address)
        case .name, .namesBelow:
            pins[address]?.contains { $0.value > now.nanoseconds && rule.names($0.key) } ?? false
        }
    }

    /// As ``decide(_:_:at:)`` for a datagram: what was admitted stays so while it is used.
    mutating func decideDatagram(guest: Endpoint, remote: Endpoint, at now: MonotonicInstant) -> Verdict {
        if policy.isOpen { return .allowed(place: Place.byDefault.rawValue) }
        let pair = Pair(guest: guest, remote: remote)
        if let known = pairs[pair], known.usedAt + Self.pairLifetime.nanoseconds > now.nanoseconds {
            pairs[pair]?.usedAt = now.nanoseconds
            expect(remote.address, at: guest, now)
            return .allowed(place: known.place)
        }
        let verdict = decide(.udp, remote, at: now)
        if case .allowed(let place) = verdict {
            expect(remote.address, at: guest, now)
            if pairs.count >= Self.pairLimit {
                pairs = pairs.filter { $0.value.usedAt + Self.pairLifetime.nanoseconds > now.nanoseconds }
                if pairs.count >= Self.pairLimit { pairs = [:] }
            }
            pairs[pair] = (now.nanoseconds, place)
        }
        return verdict
    }

    /// Remembers that answers of an address are expected at a port of the workspace's, or an echo identifier.
    mutating func expect(_ address: IPAddress, at guest: Endpoint, _ now: MonotonicInstant) {
        if policy.isOpen { return }
        if peers.count >= Self.pairLimit {
            peers = peers.filter { $0.value > now.nanoseconds }
            if peers.count >= Self.pairLimit { peers = [:] }
        }
        peers[Peer(guest: guest, address: address)] = (now + Self.pairLifetime).nanoseconds
    }

    /// Whether what comes from outside without a connection may reach the port (RFC 4787, 5: address-dependent filtering): from
    /// an address that it has sent to, or one that it might send to.
    mutating func admits(
        _ transport: EgressPolicy.Transport, from source: Endpoint, to guest: Endpoint, at now: MonotonicInstant
    ) -> Bool {
        if policy.isOpen { return true }
        let peer = Peer(guest: guest, address: source.address)
        if let end = peers[peer], end > now.nanoseconds {
            peers[peer] = (now + Self.pairLifetime).nanoseconds
            return true
        }
        guard policy.allowsByDefault, case .allowed = decide(transport, source, at: now) else { return false }
        return true
    }

    /// Whether an address that is denied by default is allowed by a rule for it, or for a part of the network that it is denied
    /// with: one for a network around that does not mean it.
    func names(_ address: IPAddress, _ transport: EgressPolicy.Transport, _ port: UInt16) -> Bool {
        policy.rules.contains { rule in
            guard rule.allows, rule.covers(transport, port), case .network(let subnet) = rule.destination else {
                return false
            }
            return subnet.contains(address)
                && Policy.metadata.contains { $0.length <= subnet.length && $0.contains(subnet.address) }
        }
    }

    /// Whether a name may be looked up.
    func judge(_ name: String) -> NameVerdict {
        var isAllowed = policy.allowsByDefault
        for (index, rule) in policy.rules.enumerated() where rule.names(name) {
            if rule.allows {
                isAllowed = true
            } else if rule.ports == nil, rule.transport == nil {
                return refusal(of: name, place: Place.builtIn + index)
            }
        }
        return isAllowed ? .allowed : refusal(of: name, place: Place.lookups.rawValue)
    }

    private func refusal(of name: String, place: Int) -> NameVerdict {
        let isSearched = lowercaseDomains.contains { name.hasSuffix("." + $0) }
        return isSearched ? .noSuchName(place: place) : .refused(place: place)
    }

    /// Pins what an answer gives a name.
    mutating func pin(_ name: String, _ addresses: [(address: IPAddress, timeToLive: UInt32)], at now: MonotonicInstant)
    {
        for (address, timeToLive) in addresses {
            if pins.count >= Self.pinLimit, pins[address] == nil { makeRoom(now) }
            // RFC 2181, 8, as resolvers do: a week at most.
            let lifetime = max(Self.leastLifetime, .seconds(Int64(min(timeToLive, 604_800))))
            let end = (now + lifetime).nanoseconds
            var names = pins[address] ?? [:]
            if names.count >= Self.namesPerAddress, names[name] == nil {
                names = names.filter { $0.value > now.nanoseconds }
                if names.count >= Self.namesPerAddress, let first = names.min(by: { $0.value < $1.value }) {
                    names[first.key] = nil
                }
            }
            names[name] = max(names[name] ?? 0, end)
            pins[address] = names
        }
    }

    /// What is over goes; if that is nothing, what ends first.
    private mutating func makeRoom(_ now: MonotonicInstant) {
        pins = pins.filter { $0.value.values.contains { $0 > now.nanoseconds } }
        guard pins.count >= Self.pinLimit else { return }
        let ends = pins.map { ($0.value.values.max() ?? 0, $0.key) }.sorted { $0.0 < $1.0 }
        for (_, address) in ends.prefix(Self.pinLimit / 8) { pins[address] = nil }
    }

    /// A name that the address was an answer for, of several the one that lasts longest.
    func name(of address: IPAddress) -> String? {
        pins[address]?.max { ($0.value, $0.key) < ($1.value, $1.key) }?.key
    }
}

/// Which denials are told: each flow once, and no more lines than somebody can read.
struct DenialLog: Sendable {
    struct Key: Hashable, Sendable {
        var transport: EgressPolicy.Transport
        var guest: Endpoint, remote: Endpoint
    }
    private static let burst = 20
    private static let keyLimit = 1024
    private static let sameFlow = Duration.seconds(30)
    private var known: [Key: Int64] = [:]
    private var tokens = Int64(burst)
    private var refilledAt: Int64 = 0
    private var leftOut = 0

    /// Whether this is a flow that was not denied before.
    mutating func isNew(_ key: Key, at now: MonotonicInstant) -> Bool {
        if let since = known[key], since + Self.sameFlow.nanoseconds > now.nanoseconds { return false }
        if known.count >= Self.keyLimit {
            known = known.filter { $0.value + Self.sameFlow.nanoseconds > now.nanoseconds }
            if known.count >= Self.keyLimit { known = [:] }
        }
        known[key] = now.nanoseconds
        return true
    }

    /// The line with what was left out before it; nil when there were too many just now.
    mutating func line(_ text: String, at now: MonotonicInstant) -> String? {
        let seconds = (now.nanoseconds - refilledAt) / 1_000_000_000
        if seconds > 0 {
            tokens = min(Int64(Self.burst), tokens + seconds)
            refilledAt = refilledAt == 0 ? now.nanoseconds : refilledAt + seconds * 1_000_000_000
        }
        guard tokens > 0 else {
            leftOut += 1
            return nil
        }
        tokens -= 1
        defer { leftOut = 0 }
        return leftOut == 0 ? text : "\(text) (and \(leftOut) before it that were not told)"
    }
}
