import FoundationEssentials
import Testing

@testable import Config

@Suite("Formats")
struct FormatTests {
    static let good: [(Format, [String])] = [
        (Format.portRange, ["1", "65535", "3000-3010", "3000:3010", "010"]),
        (.portAndProtocol, ["5432", "5432/tcp", "53/udp"]),
        (
            .forward,
            [
                "8080", "8080:80", "8080:80/tcp", "127.0.0.1:8080:80", "[::1]:8080:80/udp", "1-3:4-6", "%eth0:80",
                "127.0.0.1%lo:1-9,~2,~4-5:11-19", "[fe80::1]%e:1",
                "0.0.0.0:53:53/udp",
            ]
        ),
        (.duration, ["500ms", "30s", "1m30s", "2h", "1.5s", "0s", "10us"]),
        (.size, ["0", "4m", "512K", "1g", "10b", "2kb"]),
        (.network, ["10.0.2.0/24", "192.168.0.0/16", "10.0.0.0/8"]), (.address, ["1.2.3.4", "::1", "fd00::1"]),
        (.domain, ["example.org", "example.org.", "a_b.c", "x"]),
        (
            .egressRule,
            [
                "10.0.0.0/8", "10.0.0.1", "10.0.0.0/8:443", "10.0.0.0/8:1-2/udp", "[fd00::/8]:443/tcp", "[::1]",
                "fd00::/8",
                "fd00::1", "github.com", "*.npmjs.org:443", "*", "*:25/tcp", "1.2.3.4/icmp", "a.b/udp",
            ]
        ), (.user, ["root", "0", "1000:1000", "a-b"]),
        (.signal, ["TERM", "SIGTERM", "sigterm", "15", "64", "SIGRTMIN+3", "RTMIN", "rtmax-2", "SIGRTMAX"]),
        (.relativePath, ["a", "a/b", "./a", "a..b"]), (.command, ["a", "a 'b c'"]),
        (.restart, ["no", "false", "always", "unless-stopped", "on-failure", "on-failure:3"]),
        (.expression, ["ready", "^a(b|c)*$", "[[:digit:]]+", "a{2,3}"]),
        (.url, ["http://localhost", "http://a:1/b?c=d"]),
        (.listener, ["/run/x.sock", "80", "127.0.0.1:80", "[::1]:80", "53/udp"]), (.name, ["a", "A-b_c.1"]),
        (.variable, ["A", "a.b"]), (.taskName, ["Start it"]), (.path, ["/x"]), (.absolutePath, ["/", "/run/a b"]),
        (.mask, ["0", "022", "77", "0777"]),
        (.processors, ["1", "0.5", "1.25", "0.01", "64"]),
        (.any, ["", "x"]),
    ]

    @Test("what is in order", arguments: good)
    func accepts(_ format: Format, _ texts: [String]) {
        for text in texts { #expect(format.problem(with: text) == nil, "\(format): \(text)") }
    }

    @Test(
        "what is not",
        arguments: [
            (Format.portRange, ["", "0", "65536", "3-1", "1-", "-1", "1-2-3", "a", "1 ", "+1", "１"]),
            (.portAndProtocol, ["", "0", "1/sctp", "1/", "/tcp", "1/tcp/tcp"]),
            (
                .forward,
                [
                    "", "1:2:3", "a:1:1", "::1:8080:80", "[::1]8080", "[1.2.3.4]:1:1", "1-2:3", "80/x", "1.2.3.4:80:",
                    "%eth0", "%:80", "%a/b:80", "1-9,2", "1-9,~10", "80:81,~81", "%sixteen-letters-:80",
                ]
            ),
            (.duration, ["", "5", "1d", "-1s", "1s2", "s", "1 s", "1e3s", "∞s"]),
            (.size, ["", "m", "4x", "-1", "4 m", "99999999999g"]),
            (.network, ["", "10.0.2.0", "10.0.2.0/26", "10.0.2.0/7", "fd00::/64", "10.0.2/24"]),
            (.address, ["", "1.2.3", "::g", "1.2.3.4/8", "localhost"]),
            (.domain, ["", "-a", "a..b", "a b", "a/b", String(repeating: "a", count: 64)]),
            (
                .egressRule,
                [
                    "", "*.", "*.*.a", "a*b", "10.0.0.0/33", "a:0", "a:b", "[a]:1", "[::1]1", "a:1/icmp", "1.2.3",
                    "a/sctp", "10.0.0.5/24", "[2001:db8::5/64]:443", "https://a.b", ":https", "a.b:https",
                ]
            ),
            (.user, ["", "a b", "a:b:c", ":", "a:1", "1:"]),
            (.signal, ["", "SIGFOO", "0", "65", "SIG", "SIGRTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN+", "RTMIN3"]),
            (.relativePath, ["..", "../a", "a/../b", "a/.."]), (.command, ["", "  ", "'a", "a\\"]),
            (.restart, ["", "never", "on-failure:0", "on-failure:-1", "on-failure:x"]),
            (.expression, ["", "(", "[", "a{2,1}", "*"].filter { $0 != "*" } + [String(repeating: "a", count: 513)]),
            (.url, ["", "http://", "https://a", "ftp://a", "http:///x", "http://a b"]),
            (.listener, ["", "x", "0", "a:80", "::1:80", "/" + String(repeating: "a", count: 107)]),
            (.name, ["", "a b", "ä", "a/b"]),
            (.variable, ["", "A=B", "A B", "A\t"]), (.taskName, [""]), (.path, [""]),
            (.absolutePath, ["", "run", "./x", "/a\nb"]),
            (.mask, ["", "8", "1000", "0o22", "-1", "00022", "u=rwx"]),
            (.processors, ["", "0", "0.009", "1.", ".5", "1.5.2", "-1", "1e3", "9999", "50%"]),
        ])
    func refuses(_ format: Format, _ texts: [String]) {
        for text in texts { #expect(format.problem(with: text) != nil, "\(format): \(text)") }
    }

    @Test(
        "what was probably meant is said",
        arguments: [
            (Format.duration, "10", "10s"), (.egressRule, "https://api.github.com", "api.github.com:443"),
            (.egressRule, "http://u@a.b:81/x?y", "a.b:81"), (.egressRule, "http://[2001:db8::1]/", "[2001:db8::1]:80"),
            (.egressRule, "10.0.0.5/24", "10.0.0.0/24"), (.egressRule, "10.0.0.5/24:443/tcp", "10.0.0.0/24:443/tcp"),
            (.egressRule, "[2001:db8::5/64]:443", "[2001:db8::/64]:443"), (.egressRule, ":https", "*:443"),
            (.egressRule, ":25", "*:25"), (.egressRule, "a.b:ssh", "a.b:22"), (.egressRule, "a.b/path", "a.b"),
            (.signal, "SIGTREM", "SIGTERM"), (.restart, "on-falure", "on-failure"), (.url, "https://a", "http://a"),
        ])
    func meant(_ format: Format, _ text: String, _ better: String) {
        #expect(
            format.problem(with: text)?.contains("(did you mean \"\(better)\"?)") == true,
            "\(format.problem(with: text) ?? "")")
        #expect(format.problem(with: better) == nil)
    }

    @Test(
        "commands that only a shell would take as they are meant",
        arguments: [
            ("cd x && y", "cd"), ("a && b", "&&"), ("a | b", "|"), ("a > b", ">"), ("a; b", ";"), ("A=1 b", "A=1"),
            ("a $HOME", "$HOME"), ("a ${B}", "${B}"), ("a $(b)", "$(b)"), ("a ~/x", "~/x"), ("a `b`", "`b`"),
            ("sh -c 'cd x && $y'", nil), ("/bin/bash -lc 'a | b'", nil), ("awk '{print $1}' x", nil),
            ("a 'b && c'", nil),
            ("a b=c", nil), ("a --x=$", nil), ("env A=1 b", nil), ("a \"b", nil), ("", nil),
        ])
    func shell(_ command: String, _ found: String?) { #expect(ShellSyntax(command)?.found == found) }

    @Test("every format has cases here")
    func complete() { #expect(Set(Self.good.map(\.0)) == Set(Format.allCases)) }

    @Test("forwards, rules and listeners mean what they say")
    func meanings() throws {
        let forward = try #require(ForwardSpec("[::1]:6000-6010:7000-7010/udp"))
        #expect(forward.address == "::1" && forward.outside == 6000...6010 && forward.inside == 7000...7010)
        #expect(forward.transport == .udp)
        let chosen = try #require(ForwardSpec("[fe80::1]%eth0:7000-7003,~7001-7002:80-83"))
        #expect(chosen.address == "fe80::1" && chosen.interface == "eth0" && chosen.excluded == [7001...7002])
        #expect(chosen.pairs.map(\.outside) == [7000, 7003] && chosen.pairs.map(\.inside) == [80, 83])
        let any = try #require(ForwardSpec("%lo:80"))
        #expect(any.address == nil && any.interface == "lo" && any.inside == 80...80)
        let rule = try #require(EgressRule("[fd00::/8]:443-444/tcp"))
        #expect(rule.destination == .network("fd00::/8") && rule.ports == 443...444 && rule.flowProtocol == .tcp)
        #expect(EgressRule("*.npmjs.org")?.destination == .name("*.npmjs.org"))
        #expect(EgressRule("*:25")?.destination == .everything)
        #expect(ListenerSpec("/run/x") == .local(path: "/run/x"))
        #expect(ListenerSpec.local(path: "/run/x", SocketAccess(mode: 0o660, group: "docker")).name == "/run/x")
        #expect(ListenerSpec("[::1]:53/udp") == .internet(address: "::1", port: 53, .udp))
    }
}

@Suite("One table")
struct SchemaTests {
    private static let documentation = here.appending(path: "../../docs").standardized

    @Test(
        "docs/configuration.md and workspacekit.yml(5) are what the table says; `make docs` writes them",
        arguments: [("configuration.md", Documentation.markdown), ("man/workspacekit.yml.5", Documentation.manualPage)])
    func current(_ name: String, _ text: String) throws {
        let found = String(decoding: try Data(contentsOf: Self.documentation.appending(path: name)), as: UTF8.self)
        #expect(found == text, "docs/\(name) is out of date: make docs")
    }

    @Test(
        "every key of the table is in the documentation and in the manual page",
        arguments: [Documentation.markdown, Documentation.manualPage])
    func everyKey(_ text: String) {
        func paths(_ shape: Shape, _ path: String) -> [String] {
            switch shape {
            case .record(let keys, _):
                keys.flatMap { key -> [String] in
                    let inner = path.isEmpty ? key.name : "\(path).\(key.name)"
                    return [inner] + paths(key.shape, inner)
                }
            case .list(let element): paths(element, path + "[]")
            case .table(_, let value): paths(value, path + ".NAME")
            case .oneOf(let shapes, _): shapes.flatMap { paths($0, path) }
            default: []
            }
        }
        let all = paths(.record(GitpodKeys.root), "")
        #expect(all.count > 150 && all.contains("workspacekit.filesystem.writable"))
        let plain = text.filter { $0 != "\\" }
        // Tasks have the keys of services, which stand there, by one sentence; and limits are told together.
        for path in all where !path.hasPrefix("workspacekit.tasks.NAME") && !path.contains(".ulimits.") {
            if ["workspacekit", "workspacekit.tasks"].contains(path) { continue }
            #expect(plain.contains("`\(path)`") || plain.contains(".B \(path)\n"), "\(path)")
        }
        for key in WorkspacekitKeys.unit { #expect(plain.contains("\(key.name)"), "\(key.name)") }
    }

    @Test("every code is explained, and every key has a summary that reads on")
    func complete() {
        for code in DiagnosticCode.allCases {
            #expect(Documentation.markdown.contains("| \(code.rawValue) | \(code.explanation.prefix(8))"))
        }
        func check(_ keys: [Key]) {
            for key in keys {
                #expect(!key.summary.isEmpty && key.summary.last != ".", "\(key.name)")
                #expect(keys.filter { $0.name == key.name }.count == 1, "\(key.name) stands twice")
                if case .record(let inner, _) = key.shape { check(inner) }
            }
        }
        check(GitpodKeys.root)
        check(WorkspacekitKeys.unit)
    }

    @Test("examples and defaults are values that the key takes")
    func examples() {
        func check(_ keys: [Key]) {
            for key in keys {
                for text in [key.example, key.fallback.map { jsonText(Node($0)) }].compactMap({ $0 }) {
                    let checker = Checker()
                    let node = (try? YAMLReader.read(Array(text.utf8)))?.root
                    let kept = node.flatMap { checker.check($0, key.shape, key.name) }
                    #expect(
                        kept != nil && !checker.diagnostics.contains { $0.severity == .error }, "\(key.name): \(text)")
                }
                visit(key.shape)
            }
        }
        func visit(_ shape: Shape) {
            switch shape {
            case .record(let keys, _): check(keys)
            case .list(let element): visit(element)
            case .table(_, let value): visit(value)
            case .oneOf(let shapes, _): shapes.forEach(visit)
            default: break
            }
        }
        check(GitpodKeys.root)
    }

    @Test("what takes effect has its defaults, and each value its origin")
    func effective() {
        let text =
            "tasks:\n  - command: a\nports: [{port: 3000}]\nworkspacekit:\n  network: {mtu: 1400}\n  services:\n    s: {command: b}\n"
        let reading = Reading(Array(text.utf8), file: ".gitpod.yml")
        let yaml = reading.effectiveText(json: false)
        for line in [
            "  - name: task-1  # default", "    command: a  # .gitpod.yml:2", "    onOpen: notify  # default",
            "    mtu: 1400  # .gitpod.yml:5", "    mode: sandbox  # default", "      restart: \"no\"  # default",
            "    grace: 8s  # default", "experimentalNetwork: true  # default",
        ] { #expect(yaml.split(separator: "\n").contains(Substring(line)), "\(line) in\n\(yaml)") }
        let json = reading.effectiveText(json: true)
        #expect(json.contains("\"mtu\": {\n        \"value\": 1400,\n        \"origin\": \".gitpod.yml:5\"\n      }"))
        // With origins taken off, it is a configuration that means the same.
        let again = Reading(Array(yaml.utf8), file: "again.yml")
        #expect(!again.hasErrors && again.effective["workspacekit"]?["services"]?["s"]?["command"]?.text == "b")
        #expect(again.configuration.tasks.map(\.name) == ["task-1"])
    }

    @Test("diagnostics are data")
    func data() {
        let reading = Reading(Array("tasks: 1\n".utf8), file: "f.yml")
        #expect(
            reading.diagnosticsJSON
                == """
                [
                  {
                    "file": "f.yml",
                    "line": 1,
                    "column": 8,
                    "endLine": 1,
                    "endColumn": 9,
                    "severity": "error",
                    "code": "WK1003",
                    "path": "tasks",
                    "message": "expected a list, found a number"
                  }
                ]
                """)
    }

    @Test("colours stand around the place and the word, on demand only")
    func colours() {
        let reading = Reading(Array("tasks: 1\n".utf8), file: "f.yml")
        #expect(
            reading.rendered(colour: true)[0].hasPrefix(
                "\u{1b}[1mf.yml:1:8:\u{1b}[0m \u{1b}[1;31merror:\u{1b}[0m tasks"))
        #expect(!reading.rendered()[0].contains("\u{1b}"))
    }

    @Test("env files are read as Compose reads them")
    func environmentFiles() {
        let text = "# c\n\nA=1\nexport B = two words \nC=\"q # x\"\nD='s'\nE=\nF=a # comment\nG=a#b\r\n"
        let variables = parseEnvironmentFile(text)
        #expect(
            variables
                == .success(
                    [("A", "1"), ("B", "two words"), ("C", "q # x"), ("D", "s"), ("E", ""), ("F", "a"), ("G", "a#b")]
                        .map {
                            EnvironmentVariable(name: $0.0, value: $0.1)
                        }))
        #expect(
            parseEnvironmentFile("A=1\nnothing")
                == .failure(EnvironmentFileError(line: 2, message: "expected NAME=value")))
        #expect(
            parseEnvironmentFile("A='x") == .failure(EnvironmentFileError(line: 1, message: "a quote is not closed")))
    }

    @Test("declared ports: one beats a range, hidden is hidden")
    func declared() {
        let text =
            "ports: [{port: 3000-3010, name: range, protocol: https}, {port: 3005, name: one}, {port: 3006, onOpen: ignore-completely}]"
        let ports = DeclaredPorts(Reading(Array(text.utf8), file: "f").configuration)
        #expect(DeclaredPorts(fields: ports.fields) == ports)
        #expect(ports.name(of: 3000) == "range" && ports.name(of: 3005) == "one" && ports.name(of: 1) == nil)
        #expect(ports.layers.map(\.shown) == [[3000...3010], [3005...3005]] && ports.layers[1].hidden == [3006...3006])
    }

    @Test("a URL is for ports on which the configuration or common use has HTTP")
    func schemes() {
        let text = """
            ports: [{port: 4100}, {port: 4101, protocol: https}, {port: 4102, onOpen: open-preview}, {port: 4103}, {port: 4104, onOpen: notify},
              {port: 4105}, {port: 4106}, {port: 5432, protocol: http}, {port: 4110-4119, protocol: http}]
            workspacekit:
              services: {a: {command: a, healthcheck: {http: "http://localhost:4103/healthz"}}, b: {command: b, healthcheck: {port: 4105}},
                c: {command: c, healthcheck: {http: "http://elsewhere:4106"}}}
            """
        let ports = DeclaredPorts(Reading(Array(text.utf8), file: "f").configuration)
        #expect(DeclaredPorts(fields: ports.fields) == ports)
        let expected: [UInt16: String?] = [
            4100: nil, 4101: "https", 4102: "http", 4103: "http", 4104: nil, 4105: nil, 4106: nil, 5432: "http",
            4115: "http", 5433: nil, 22: nil, 3000: "http", 8443: "https",
        ]
        for (port, scheme) in expected { #expect(ports.scheme(of: port) == scheme, "\(port)") }
    }

    @Test("a setting of git may have blanks in its name, a variable not")
    func settings() {
        let reading = Reading(Array("gitConfig: {remote.my fork.url: x}".utf8), file: "f")
        #expect(reading.rendered() == [] && reading.configuration.gitConfig.map(\.name) == ["remote.my fork.url"])
        #expect(Reading(Array("env: {A B: x}".utf8), file: "f").hasErrors)
    }

    @Test(
        "a forward's text is read as it was",
        arguments: [
            "8080:80", "127.0.0.1:8080:80/tcp", "[::1]:53:53/udp", "7000-7010:6000-6010/udp", "80", "%eth0:80",
            "127.0.0.1%lo:1-9,~2,~4-5:11-19",
        ])
    func forwards(text: String) throws {
        let forward = try #require(ForwardSpec(text))
        #expect(ForwardSpec(forward.text) == forward)
    }
}
