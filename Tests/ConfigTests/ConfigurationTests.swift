import Testing

@testable import Config

private func read(_ text: String) -> Reading { Reading(Array(text.utf8), file: ".gitpod.yml") }

/// The first line of each diagnostic.
private func heads(_ reading: Reading) -> [String] {
    reading.rendered.map { String($0.split(separator: "\n", omittingEmptySubsequences: false)[0]) }
}

@Suite("Scalars by the YAML 1.2 core schema")
struct ScalarTests {
    @Test(arguments: [
        ("yes", ScalarValue.string("yes")), ("on", .string("on")), ("off", .string("off")), ("22:22", .string("22:22")),
        ("8080:8081", .string("8080:8081")), ("010", .integer(10)), ("0o17", .integer(15)), ("0x1F", .integer(31)),
        ("-7", .integer(-7)), ("+7", .integer(7)), ("true", .boolean(true)), ("False", .boolean(false)), ("~", .null),
        ("", .null), ("null", .null), ("1.5", .float(1.5)), ("1e3", .float(1000)), (".5", .float(0.5)),
        ("1.", .float(1)),
        ("1.2.3", .string("1.2.3")), ("-", .string("-")), (".", .string(".")), ("1e", .string("1e")),
        ("0o8", .string("0o8")),
        ("1_000", .string("1_000")), ("0x", .string("0x")), ("-.inf", .float(-.infinity)),
        ("99999999999999999999", .float(1e20)),
    ])
    func resolves(_ text: String, _ value: ScalarValue) { #expect(ScalarValue(core: text) == value) }
}

@Suite("Configuration")
struct ConfigurationTests {
    @Test("a whole file reaches the model, without a word")
    func whole() {
        let reading = read(
            """
            image: {file: .gitpod.Dockerfile}
            tasks:
              - name: web
                before: a
                init: |
                  b
                  c
                command: d
                env: {A: x, N: 1, B: true, L: [1, "two"], M: {k: null}}
            ports:
              - port: 3000
              - {port: 4000-4010, name: range, onOpen: ignore, visibility: public, protocol: https}
              - {port: "5000:5001"}
            env: {TOP: level}
            experimentalNetwork: true
            checkoutLocation: project
            coreDump: {enabled: true, softLimit: 5}
            workspacekit:
              network: {mode: sandbox, mtu: 1400, hostLoopback: [5432/tcp, 53/udp]}
              services:
                db:
                  command: postgres -D "/my data"
                  restart: on-failure:3
                  environment: [X=y=z]
                  stop_signal: SIGINT
                  stop_grace_period: 1m30s
                  requires: postgres
              shutdown: {grace: 500ms}
            """)
        #expect(reading.rendered == [])
        let c = reading.configuration
        #expect(c.tasks.map(\.name) == ["web"] && c.tasks[0].initialize == "b\nc\n")
        #expect(c.tasks[0].environment.map(\.value) == ["x", "1", "true", "[1,\"two\"]", "{\"k\":null}"])
        #expect(c.ports.map(\.ports) == [3000...3000, 4000...4010, 5000...5001])
        #expect(c.experimentalNetwork == true && c.checkoutLocation == "project")
        #expect(c.coreDump == CoreDumpSpec(isEnabled: true, softLimit: 5, hardLimit: 1 << 30))
        #expect(c.network.mtu == 1400 && c.network.hostLoopback.map(\.isUDP) == [false, true])
        #expect(c.services[0].command == ["postgres", "-D", "/my data"])
        #expect(c.services[0].restart == .onFailure(limit: 3) && c.services[0].stopGrace == .seconds(90))
        #expect(c.services[0].environment == [EnvironmentVariable(name: "X", value: "y=z")])
        #expect(c.stopGrace == .milliseconds(500))
    }

    @Test(
        "what is wrong is said with its place",
        arguments: [
            ("tasks: x", ".gitpod.yml:1:8: error: tasks: expected a list, found a string"),
            ("tasks:\n  - x", ".gitpod.yml:2:5: error: tasks[0]: expected a mapping, found a string"),
            ("tasks:\n  - nam: x", ".gitpod.yml:2:5: warning: tasks[0]: unknown key \"nam\" (did you mean \"name\"?)"),
            ("ports: [{name: x}]", ".gitpod.yml:1:9: error: ports[0]: \"port\" is missing"),
            (
                "ports: [{port: 70000}]",
                ".gitpod.yml:1:16: error: ports[0].port: expected a port number from 1 to 65535 or a range such as \"3000-3010\", found \"70000\""
            ),
            (
                "ports: [{port: 9-3}]",
                ".gitpod.yml:1:16: error: ports[0].port: expected a port number from 1 to 65535 or a range such as \"3000-3010\", found \"9-3\""
            ),
            ("a: 1\na: 2", ".gitpod.yml:2:1: warning: unknown key \"a\""),
            (
                "env: {A: 1, A: 2}",
                ".gitpod.yml:1:13: warning: env: key \"A\" stands twice (first in line 1); the last counts"
            ),
            (
                "experimentalNetwork: yes",
                ".gitpod.yml:1:22: error: experimentalNetwork: expected true or false, found a string"
            ),
            ("github: {}", ".gitpod.yml:1:9: warning: github: deprecated, without effect here"),
            (
                "checkoutLocation: ../up",
                ".gitpod.yml:1:19: error: checkoutLocation: the path leads out of the workspace: \"../up\""
            ),
            (
                "workspacekit: {network: {mtu: 9}}",
                ".gitpod.yml:1:31: error: workspacekit.network.mtu: 9 is out of range: at least 1280"
            ),
            (
                "workspacekit: {services: {s: {}}}",
                ".gitpod.yml:1:30: error: workspacekit.services.s: \"command\" is missing"
            ),
            (
                "workspacekit: {services: {s: {command: 'a \"b'}}}",
                ".gitpod.yml:1:40: error: workspacekit.services.s.command: a quote is not closed"
            ),
            (
                "workspacekit: {services: {s: {command: a, stop_grace_period: 5}}}",
                ".gitpod.yml:1:62: error: workspacekit.services.s.stop_grace_period: expected a duration such as 500ms, 30s or 1m30s, found \"5\""
            ),
            ("a: [", ".gitpod.yml:2:1: error: did not find expected node content, while parsing a flow node"),
            ("a: *nowhere", ".gitpod.yml:1:4: error: unknown anchor \"nowhere\""),
            ("a: {}\n---\nb: {}", ".gitpod.yml:2:1: warning: only the first document of the file counts"),
        ])
    func diagnostics(_ text: String, _ expected: String) {
        #expect(heads(read(text)).contains(expected), "\(heads(read(text)))")
    }

    @Test("all diagnostics come in one go, in file order, with the line and a caret")
    func order() {
        let reading = read("ports: 1\ntasks: 2\n")
        #expect(reading.hasErrors && reading.diagnostics.map(\.mark.line) == [1, 2])
        #expect(
            reading.rendered[1]
                == ".gitpod.yml:2:8: error: tasks: expected a list, found a number\n  tasks: 2\n         ^")
    }

    @Test("merge keys give what is not given, and explicit keys win")
    func mergeKeys() {
        let reading = read(
            "tasks:\n  - &a {name: one, command: c}\n  - {<<: *a, name: two}\n  - {<<: [{name: x}, *a]}\n")
        #expect(reading.configuration.tasks.map(\.name) == ["one", "two", "x"])
        #expect(reading.configuration.tasks.allSatisfy { $0.command == "c" } == true)
    }

    @Test("an empty file, a BOM and CRLF are ordinary")
    func ordinary() {
        #expect(read("").rendered == [] && read("# nothing\n").rendered == [])
        #expect(read("\u{feff}tasks:\r\n  - name: x\r\n").configuration.tasks.map(\.name) == ["x"])
    }

    @Test("a bomb is an error, quickly")
    func bombs() {
        var bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
        for level in 1..<12 {
            bomb +=
                "a\(level): &a\(level) [" + Array(repeating: "*a\(level - 1)", count: 10).joined(separator: ",") + "]\n"
        }
        let clock = ContinuousClock()
        let texts = [
            bomb, String(repeating: "[", count: 1 << 20), String(repeating: "{a: ", count: 100_000),
            String(repeating: "x", count: (1 << 20) + 1),
        ]
        for text in texts {
            let took = clock.measure { #expect(read(text).diagnostics.contains { $0.code == .tooLarge }) }
            #expect(took < .seconds(2))
        }
    }

    @Test("flipped, dropped and doubled bytes give a model or a place, never a trap", arguments: 0..<50)
    func mutations(seed: Int) {
        let base = Array(
            "tasks:\n  - &a {name: one, command: 'c', env: {A: [1, \"x\"]}}\n  - <<: *a\n    init: |\n      x\n      y\nports: [{port: 3000-3001}]\nworkspacekit:\n  services: {s: {command: a b, restart: always}}\n"
                .utf8)
        var state = UInt64(seed) &* 0x9e37_79b9_7f4a_7c15 | 1
        func random(_ n: Int) -> Int {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return Int(state % UInt64(n))
        }
        for _ in 0..<100 {
            var bytes = base
            for _ in 0...random(4) {
                let at = random(bytes.count)
                switch random(3) {
                case 0: bytes[at] = UInt8(random(256))
                case 1: bytes.remove(at: at)
                default: bytes.insert(bytes[at], at: at)
                }
            }
            let reading = Reading(bytes, file: "f")
            for diagnostic in reading.diagnostics { #expect(diagnostic.mark.line >= 1 && diagnostic.mark.column >= 1) }
        }
    }
}

@Suite("Texts")
struct TextTests {
    @Test(arguments: [
        ("500ms", Duration.milliseconds(500)), ("1m30s", .seconds(90)), ("2h", .seconds(7200)),
        ("1.5s", .milliseconds(1500)),
    ])
    func durations(_ text: String, _ expected: Duration) { #expect(parseDuration(text) == expected) }

    @Test(arguments: ["", "5", "s", "5 s", "-1s", "1d", "1s2", "1..2s"])
    func noDurations(_ text: String) { #expect(parseDuration(text) == nil) }

    @Test(arguments: [
        ("a b  c", ["a", "b", "c"]), ("'a b' \"c d\"", ["a b", "c d"]), ("a\\ b", ["a b"]), ("x''y", ["xy"]),
        ("\"a\\\"b\\n\"", ["a\"b\\n"]), ("''", [""]),
    ])
    func words(_ text: String, _ expected: [String]) { #expect(splitWords(text) == expected) }
}
