import Testing

@testable import Config

private func read(_ text: String) -> Reading { Reading(Array(text.utf8), file: ".gitpod.yml") }

/// The first line of each diagnostic.
private func heads(_ reading: Reading) -> [String] {
    reading.rendered().map { String($0.split(separator: "\n", omittingEmptySubsequences: false)[0]) }
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
        #expect(reading.rendered(notes: false) == [])
        let c = reading.configuration
        #expect(c.tasks.map(\.name) == ["web"] && c.tasks[0].initialize == "b\nc\n")
        #expect(c.tasks[0].environment.map(\.value) == ["x", "1", "true", "[1,\"two\"]", "{\"k\":null}"])
        #expect(c.ports.map(\.ports) == [3000...3000, 4000...4010, 5000...5001])
        #expect(c.experimentalNetwork == true && c.checkoutLocation == "project")
        #expect(c.coreDump == CoreDumpSpec(isEnabled: true, softLimit: 5, hardLimit: 1 << 30))
        #expect(c.network.mtu == 1400 && c.network.hostLoopback.map(\.isUDP) == [false, true])
        #expect(c.services[0].command == ["postgres", "-D", "/my data"])
        #expect(
            c.services[0].options.restart == .onFailure(limit: 3) && c.services[0].options.stopGrace == .seconds(90))
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
                ".gitpod.yml:1:22: error: experimentalNetwork: expected true or false, found a string (did you mean true?)"
            ),
            ("github: {}", ".gitpod.yml:1:1: warning: github: deprecated, and without effect here"),
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
                ".gitpod.yml:1:62: error: workspacekit.services.s.stop_grace_period: expected a duration such as 500ms, 30s or 1m30s, found \"5\" (did you mean \"5s\"?)"
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
            reading.rendered()[1]
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
        #expect(read("").rendered() == [] && read("# nothing\n").rendered() == [])
        #expect(read("\u{feff}tasks:\r\n  - name: x\r\n").configuration.tasks.map(\.name) == ["x"])
    }

    @Test("many problems on one long line are found at once, and people are shown the first of them")
    func many() {
        let reading = read("ports: [" + String(repeating: "{port: x},", count: 20_000) + "]")
        #expect(reading.diagnostics.count == 20_000)
        let texts = reading.rendered()
        #expect(texts.count == 201)
        #expect(texts.last == ".gitpod.yml: and 19800 more (\"workspacekit validate --json\" shows all)")
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
}

@Suite("Two places")
struct SourcesTests {
    private func read(_ whole: String?, _ extensions: String) -> Reading {
        let first = whole.map { [Source(name: "w/.gitpod.yml", bytes: Array($0.utf8))] } ?? []
        return Reading(first + [Source(name: "w/.workspacekit.yml", bytes: Array(extensions.utf8))])
    }

    @Test("a .workspacekit.yml holds what stands under workspacekit otherwise")
    func beside() {
        let reading = read("tasks: [{name: t, command: x}]", "tasks: {t: {restart: always}}\nnetwork: {mtu: 1400}")
        #expect(reading.rendered() == [])
        #expect(reading.configuration.tasks[0].options.restart == .always)
        #expect(reading.configuration.network.mtu == 1400)
        #expect(reading.document["workspacekit"]?["network"]?["mtu"]?.number == 1400)
    }

    @Test("diagnostics name the file that they are about, first things first")
    func places() {
        let reading = read("task: 1", "network: {mtuu: 1}\ntasks: {t: {}}")
        #expect(
            reading.rendered().map { String($0.split(separator: "\n")[0]) } == [
                "w/.gitpod.yml:1:1: warning: unknown key \"task\" (did you mean \"tasks\"?)",
                "w/.workspacekit.yml:1:11: warning: network: unknown key \"mtuu\" (did you mean \"mtu\"?)",
                "w/.workspacekit.yml:2:9: error: workspacekit.tasks.t: no task is called \"t\"",
            ])
    }

    @Test("both places at once is an error")
    func both() {
        let reading = read("workspacekit: {network: {mtu: 1400}}", "network: {mtu: 1500}")
        #expect(reading.diagnostics.map(\.code) == [.conflict] && reading.hasErrors)
    }

    @Test("alone it is enough")
    func alone() {
        let reading = read(nil, "services: {s: {command: a}}")
        #expect(reading.rendered() == [] && reading.configuration.services.map(\.name) == ["s"])
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
