internal import Kernel
internal import Slirp

/// slirp4netns's command line (slirp4netns(1)): getopt_long's way, options and operands in any order, long options also
/// by an unambiguous beginning.
struct Slirp4netnsOptions: Equatable {
    /// What the first operand names.
    enum NamespaceKind: String, CaseIterable { case pid, path, tapfd }
    enum Target: Equatable {
        case namespace(NamespaceKind, String)
        /// A socket that takes whole frames (BESS).
        case bess(path: String)
    }
    var target = Target.namespace(.pid, "")
    var interface = "tap0"
    var configures = false
    var exitDescriptor: Int32?, readyDescriptor: Int32?
    var mtu = 1500
    var network = Subnet(IPAddress(v4: 0x0a00_0200), 24)
    var disablesHostLoopback = false, disablesNames = false, enablesIPv6 = false
    var apiSocket: String?, usersPath: String?
    var isSandboxed = false, hasSeccomp = false
    /// Each frame is one segment with its checksum; ours, the original has no other way.
    var disablesOffload = false
    /// As written: an address or an interface.
    var outbound4: String?, outbound6: String?
    var hardwareAddress: [UInt8]?
    /// What there is to say before it starts.
    var warnings: [String] = []

    enum Request: Equatable {
        case run(Slirp4netnsOptions)
        case help, version
    }

    /// Why a command line cannot be used.
    struct UsageError: Error, Equatable {
        let message: String
        /// The usage is shown too.
        var showsUsage = false
    }

    private enum Option: String, CaseIterable {
        case configure
        case exitFd = "exit-fd"
        case readyFd = "ready-fd"
        case mtu
        case noHostLoopback = "no-host-loopback"
        case disableHostLoopback = "disable-host-loopback"
        case cidr
        case apiSocket = "api-socket"
        case enableIPv6 = "enable-ipv6"
        case netnsType = "netns-type"
        case usernsPath = "userns-path"
        case createSandbox = "create-sandbox"
        case enableSandbox = "enable-sandbox"
        case enableSeccomp = "enable-seccomp"
        case outboundAddr = "outbound-addr"
        case outboundAddr6 = "outbound-addr6"
        case disableDns = "disable-dns"
        case disableOffload = "disable-offload"
        case macaddress
        case targetType = "target-type"
        case help, version

        var takesValue: Bool {
            switch self {
            case .configure, .noHostLoopback, .disableHostLoopback, .enableIPv6, .createSandbox, .enableSandbox,
                .enableSeccomp, .disableDns, .disableOffload, .help, .version:
                false
            default: true
            }
        }

        static let letters: [Character: Option] = [
            "c": .configure, "e": .exitFd, "r": .readyFd, "m": .mtu, "a": .apiSocket, "6": .enableIPv6, "h": .help,
            "v": .version,
        ]

        /// The option of a name, or of the beginning of just one.
        init(long name: String) throws(UsageError) {
            if let exact = Option(rawValue: name) {
                self = exact
                return
            }
            let candidates = Option.allCases.filter { $0.rawValue.hasPrefix(name) }
            guard candidates.count == 1, let only = candidates.first else {
                let problem = candidates.isEmpty ? "unrecognized option" : "ambiguous option"
                throw UsageError(message: "\(problem) '--\(name)'", showsUsage: true)
            }
            self = only
        }
    }

    /// Reads a command line.
    static func parse(_ arguments: [String]) throws(UsageError) -> Request {
        var options = Slirp4netnsOptions()
        var kind: NamespaceKind?
        var isBess = false
        var operands: [String] = []
        var rest = arguments[...]
        func take(_ option: Option, _ attached: String?) throws(UsageError) -> Request? {
            var value = attached ?? ""
            if option.takesValue, attached == nil {
                guard let next = rest.popFirst() else {
                    throw UsageError(message: "option '--\(option.rawValue)' requires an argument", showsUsage: true)
                }
                value = next
            } else if !option.takesValue, attached != nil {
                throw UsageError(message: "option '--\(option.rawValue)' doesn't allow an argument", showsUsage: true)
            }
            switch option {
            case .help: return .help
            case .version: return .version
            case .netnsType:
                guard let found = NamespaceKind(rawValue: value) else {
                    throw UsageError(message: "--netns-type must be one of path, pid and tapfd, not \(value)")
                }
                kind = found
            case .targetType:
                guard ["netns", "bess"].contains(value) else {
                    throw UsageError(message: "--target-type must be one of netns and bess, not \(value)")
                }
                isBess = value == "bess"
            default: try options.set(option, value)
            }
            return nil
        }
        while let word = rest.popFirst() {
            if word == "--" {
                operands += rest
                break
            }
            var request: Request?
            if word.hasPrefix("--") {
                let parts = word.dropFirst(2).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                let option = try Option(long: String(parts.first ?? ""))
                request = try take(option, parts.count > 1 ? String(parts[1]) : nil)
            } else if word.hasPrefix("-"), word != "-" {
                var cluster = word.dropFirst()
                while let letter = cluster.popFirst(), request == nil {
                    guard let option = Option.letters[letter] else {
                        throw UsageError(message: "invalid option -- '\(letter)'", showsUsage: true)
                    }
                    let attached = option.takesValue && !cluster.isEmpty ? String(cluster) : nil
                    if attached != nil { cluster = "" }
                    request = try take(option, attached)
                }
            } else {
                operands.append(word)
            }
            if let request { return request }
        }
        try options.finish(operands, kind, isBess)
        return .run(options)
    }

    private mutating func set(_ option: Option, _ value: String) throws(UsageError) {
        func number() throws(UsageError) -> Int32 {
            guard let number = Int32(value), number >= 0 else {
                throw UsageError(message: "\(option.rawValue) must be a non-negative integer")
            }
            return number
        }
        switch option {
        case .configure: configures = true
        case .exitFd: exitDescriptor = try number()
        case .readyFd: readyDescriptor = try number()
        case .mtu:
            // As strtol reads it: what follows the digits is nobody's business.
            guard let size = Int(value.prefix { $0.isASCII && $0.isNumber }), size > 0, size < 65522 else {
                throw UsageError(message: "MTU must be a positive integer (< 65522)")
            }
            mtu = max(68, size)
        case .noHostLoopback, .disableHostLoopback:
            if option == .noHostLoopback {
                warnings.append("--no-host-loopback is deprecated, use --disable-host-loopback")
            }
            disablesHostLoopback = true
        case .cidr: network = try Self.network(value)
        case .apiSocket: apiSocket = value
        case .enableIPv6:
            enablesIPv6 = true
        case .usernsPath: usersPath = value
        case .createSandbox, .enableSandbox:
            if option == .createSandbox {
                warnings.append("--create-sandbox is deprecated, use --enable-sandbox")
            }
            isSandboxed = true
        case .enableSeccomp: hasSeccomp = true
        case .outboundAddr: outbound4 = value
        case .outboundAddr6: outbound6 = value
        case .disableDns: disablesNames = true
        case .disableOffload: disablesOffload = true
        case .macaddress:
            let parts = value.split(separator: ":", omittingEmptySubsequences: false)
            let bytes = parts.compactMap { (1...2).contains($0.count) ? UInt8($0, radix: 16) : nil }
            guard parts.count == 6, bytes.count == 6, bytes[0] & 1 == 0 else {
                throw UsageError(message: "macaddress has to be a valid MAC address (hex string, 6 bytes, unicast)")
            }
            hardwareAddress = bytes
        case .netnsType, .targetType, .help, .version: break
        }
    }

    private static func network(_ text: String) throws(UsageError) -> Subnet {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let address = IPAddress(parts[0]), address.isV4, let length = Int(parts[1]) else {
            throw UsageError(message: "invalid CIDR: \(text)")
        }
        guard (1...25).contains(length) else {
            throw UsageError(message: "prefix length needs to be 1-25")
        }
        let base = address.v4 & (~0 << UInt32(32 - length))
        guard base == address.v4 else {
            throw UsageError(
                message: "CIDR needs to be a network address like \(IPAddress(v4: base))/\(length), not like \(text)")
        }
        return Subnet(address, length)
    }

    private mutating func finish(_ operands: [String], _ kind: NamespaceKind?, _ isBess: Bool) throws(UsageError) {
        guard let first = operands.first else {
            throw UsageError(message: "please specify PID, PATH or FD", showsUsage: true)
        }
        if operands.count > 2 { warnings.append("too many arguments: \(operands.dropFirst(2).joined(separator: " "))") }
        if operands.count > 1 { interface = operands[1] }
        guard (1...15).contains(interface.utf8.count) else {
            throw UsageError(message: "\(interface) is no name for an interface")
        }
        if hardwareAddress != nil, !configures {
            throw UsageError(message: "--macaddress cannot be specified when --configure or -c is not specified")
        }
        if let apiSocket, apiSocket.utf8.count >= 108 {
            throw UsageError(message: "the path of the API socket is too long (< 108 bytes): \(apiSocket)")
        }
        if isBess {
            if configures { throw UsageError(message: "the option --target-type=bess conflicts with -c") }
            if kind != nil { throw UsageError(message: "the option --target-type=bess conflicts with --netns-type") }
            if usersPath != nil {
                throw UsageError(message: "the option --target-type=bess conflicts with --userns-path")
            }
            target = .bess(path: first)
            return
        }
        let kind = kind ?? .pid
        if kind != .path, Int32(first).map({ $0 < 0 || (kind == .pid && $0 == 0) }) ?? true {
            throw UsageError(
                message: kind == .pid ? "PID must be a positive integer" : "FD must be a non-negative integer")
        }
        if kind == .tapfd, usersPath != nil {
            throw UsageError(message: "the option --netns-type=tapfd conflicts with --userns-path")
        }
        target = .namespace(kind, first)
    }

    static let usage = """
        usage: slirp4netns [OPTION]... PID|PATH|FD [TAPNAME]
          -c, --configure            bring up the interface, with address and default route
          -e, --exit-fd=FD           end when something happens to this descriptor
          -r, --ready-fd=FD          write "1" to this descriptor once everything is there
          -m, --mtu=MTU              the interface's MTU (default 1500, at most 65521)
          -6, --enable-ipv6          IPv6, too
          -a, --api-socket=PATH      take requests for port forwards there
          --cidr=CIDR                the network (default 10.0.2.0/24)
          --disable-host-loopback    10.0.2.2 does not lead to the outside's 127.0.0.1
          --netns-type=TYPE          what the first argument is: path, pid or tapfd (default pid)
          --userns-path=PATH         the user namespace to enter
          --enable-sandbox           leave the file system but for /etc and /run, and all capabilities but one
          --enable-seccomp           end at system calls that are not needed
          --outbound-addr=IPv4       connect from this address, or interface's
          --outbound-addr6=IPv6      connect from this address, or interface's
          --disable-dns              10.0.2.3 is an address like any other
          --disable-offload          one segment a frame, with its checksum; slower
          --macaddress=MAC           the interface's hardware address (with -c)
          --target-type=TYPE         netns, or bess: a socket for whole frames
          -h, --help                 this
          -v, --version              the version

        """
}
