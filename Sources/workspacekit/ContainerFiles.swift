internal import Kernel
internal import Ring
internal import Slirp

/// The container's /etc/resolv.conf and /etc/hosts, which the workspace's own are made of, and whose name servers the forwarder
/// asks: as they are at the start, and as they change.
///
/// The files are found from a directory that was opened at the start, and read without waiting. Where the root file system is
/// shared, or a writable place holds them, the workspace may be able to write them all the same. So servers that only a change named are taken only where
/// anything may be asked (no loopback, no link-local address, no metadata service); and where network.egress depends on what
/// the servers answer, a change that the workspace can have made is not taken at all.
final class ContainerFiles {
    /// How the workspace's files differ from the container's.
    struct Inside {
        let nameServer: IPAddress, gateway: IPAddress
        let hostName: String
        /// The workspace has the container's address.
        let keepsAddress: Bool
        /// Search domains of its own; none: the container's.
        let searchDomains: [String]
    }

    static let resolverPath = "/etc/resolv.conf", hostsPath = "/etc/hosts"
    private let resolver = OutsideFile("/etc", "resolv.conf"), hosts = OutsideFile("/etc", "hosts")
    private let inside: Inside
    /// Servers that the configuration or the container had at the start.
    private let trusted: Set<NameServer>
    private let isConfigured: Bool
    /// The servers to ask.
    private(set) var servers: [NameServer]
    /// What stands in the workspace's files, by path.
    private(set) var texts: [String: String]
    private var watch: OutsideWatch
    private var noted: Set<String> = []

    init(_ inside: Inside, configured: [NameServer]) {
        self.inside = inside
        isConfigured = !configured.isEmpty
        watch = OutsideWatch([resolver, hosts])
        let file = ResolverFile(resolver.text() ?? "")
        servers = isConfigured ? configured : file.servers
        trusted = Set(servers)
        texts = Self.texts(file, hosts.text() ?? "", inside)
    }

    private static func texts(_ resolver: ResolverFile, _ hosts: String, _ inside: Inside) -> [String: String] {
        [
            resolverPath: resolver.replacing(servers: [inside.nameServer], search: inside.searchDomains),
            hostsPath: HostsFile.inside(
                hosts, hostName: inside.hostName, gateway: inside.gateway, keepsAddress: inside.keepsAddress),
        ]
    }

    /// The workspace's search domains.
    var searchDomains: [String] { ResolverFile(texts[Self.resolverPath] ?? "").searchDomains }

    // MARK: changes

    /// Readable when the files may have changed; nil where nothing can be watched.
    var descriptor: Descriptor? { watch.descriptor }
    /// When to look; nil: nothing happened.
    var dueAt: MonotonicInstant? { watch.dueAt }
    func take(at now: MonotonicInstant) { watch.take(at: now) }

    /// Reads the files once more, when it is time. True when something happened, if only to the way that leads to them.
    func look(at now: MonotonicInstant, ids: IDMap?, obeysNames: Bool, note: (String) -> Void) -> Bool {
        guard watch.isDue(at: now) else { return false }
        let finding = resolver.find()
        // It may be missing for a moment, in the middle of a replacement: what was known stays.
        let file = resolver.text(finding).map { ResolverFile($0) }
        if let file, obeysNames, let ids, finding.isWritable(by: IDMapping(ids)) {
            if file.servers != servers || file.searchDomains != searchDomains { noteOnce(Self.writableNote, note) }
        } else if let file {
            if !isConfigured { servers = admitted(file.servers, note) }
            texts[Self.resolverPath] = file.replacing(servers: [inside.nameServer], search: inside.searchDomains)
        }
        if let text = hosts.text() {
            texts[Self.hostsPath] = HostsFile.inside(
                text, hostName: inside.hostName, gateway: inside.gateway, keepsAddress: inside.keepsAddress)
        }
        return true
    }

    private static let writableNote =
        "/etc/resolv.conf has changed and is not followed: the workspace can write it, and network.egress depends on the "
        + "answers of its servers. hint: network.dns.servers, or a restart of the workspace"

    private func admitted(_ named: [NameServer], _ note: (String) -> Void) -> [NameServer] {
        named.filter { server in
            if trusted.contains(server) || server.mayBeFollowed { return true }
            noteOnce(
                "/etc/resolv.conf names \(server) now, which is not asked: it was not the container's name server at the "
                    + "start. hint: network.dns.servers", note)
            return false
        }
    }

    private func noteOnce(_ text: String, _ note: (String) -> Void) {
        if noted.count < 64, noted.insert(text).inserted { note(text) }
    }
}

extension IDMapping {
    /// The ids outside that a map gives the workspace.
    init(_ map: IDMap) {
        func outside(_ ranges: [IDRange]) -> [ClosedRange<UInt32>] {
            ranges.filter { $0.count > 0 }.map { $0.outside...$0.outside &+ ($0.count - 1) }
        }
        self.init(users: outside(map.users), groups: outside(map.groups))
    }
}
