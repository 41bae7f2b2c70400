import FoundationEssentials
import Testing

@testable import Config

/// Files of other tools with the configuration that they become (NAME.yml) and what is said (NAME.txt).
@Suite("Import")
struct ImportTests {
    static let folder = here.appending(path: "Imports")
    static let names: [String] = [".yaml", ".json"].flatMap { ending in
        files(in: folder, ending: ending).map { $0 + ending }
    }

    @Test("each file becomes a configuration, and what is lost is said", arguments: names)
    func golden(_ name: String) throws {
        let bytes = Array(try Data(contentsOf: Self.folder.appending(path: name)))
        let imported = Import(bytes, file: name)
        try compare(imported.rendered().map { $0 + "\n" }.joined(), with: Self.folder.appending(path: name + ".txt"))
        guard let text = imported.text else { return #expect(imported.diagnostics.contains { $0.severity == .error }) }
        try compare(text, with: Self.folder.appending(path: name + ".yml"))
        let reading = Reading(Array(text.utf8), file: name + ".yml")
        #expect(!reading.hasErrors, "\(reading.rendered())")
        #expect(!reading.diagnostics.contains { $0.code == .unknownKey }, "\(reading.rendered())")
    }

    @Test("comments and commas of hand-written JSON go, and every other byte stays in its place")
    func handWrittenJSON() {
        let cases: [(String, String)] = [
            ("{\"a\": 1, }", "{\"a\": 1  }"), ("[1,\n]", "[1 \n]"), ("{\"a//b\": \"/*c*/\"}", "{\"a//b\": \"/*c*/\"}"),
            ("[1] // x\n", "[1]     \n"), ("[/* a\nb */1]", "[    \n    1]"), ("\"a\\\"//\"", "\"a\\\"//\""),
            ("/* open", "       "),
            ("[1,,]", "[1, ]"), ("\"open", "\"open"), ("[1, /* c */ ]", "[1          ]"), ("{\t}", "{ }"),
        ]
        for (text, expected) in cases {
            #expect(String(decoding: plainJSON(Array(text.utf8)), as: UTF8.self) == expected, "\(text)")
        }
    }

    @Test("no mutation of the files traps", arguments: names)
    func mutations(_ name: String) throws {
        let base = Array(try Data(contentsOf: Self.folder.appending(path: name)))
        for index in base.indices.striding(by: max(1, base.count / 300)) {
            for replacement in [nil, 0x7b, 0x22, 0xff, 0x0a] as [UInt8?] {
                var bytes = base
                if let replacement { bytes[index] = replacement } else { bytes.remove(at: index) }
                let imported = Import(bytes, file: name)
                _ = imported.rendered()
                #expect(imported.text != nil || imported.diagnostics.contains { $0.severity == .error })
            }
        }
    }
}

extension Range where Bound == Int {
    fileprivate func striding(by step: Int) -> StrideTo<Int> { stride(from: lowerBound, to: upperBound, by: step) }
}

@Suite("A first configuration")
struct StarterTests {
    private func starter(_ files: [String: String]) -> Reading {
        let starter = Starter(names: files.keys.sorted(), files: files)
        return Reading(Array(starter.text.utf8), file: ".gitpod.yml")
    }

    @Test("what it writes is in order, whatever is found")
    func inOrder() {
        let all: [String: String] = [
            "package.json": "{\"scripts\": {\"dev\": \"vite\"}, \"devDependencies\": {\"vite\": \"5\"}}",
            "yarn.lock": "",
            "go.mod": "", "main.go": "", "Cargo.toml": "", "requirements.txt": "", "manage.py": "",
            "Gemfile": "gem \"rails\"",
            "composer.json": "{}", "artisan": "", "pom.xml": "", "app.csproj": "", "mix.exs": "", "Package.swift": "",
            "Dockerfile": "", "Makefile": "",
        ]
        let reading = starter(all)
        #expect(reading.rendered() == [])
        let tasks = reading.configuration.tasks
        #expect(
            tasks.map(\.name) == ["node", "python", "go", "rust", "ruby", "php", "java", "dotnet", "elixir", "swift"])
        #expect(tasks[0].initialize == "yarn install" && tasks[0].command == "yarn run dev")
        #expect(tasks[1].command == ".venv/bin/python manage.py runserver")
        #expect(reading.configuration.ports.map(\.ports) == [5173...5173, 8000...8000, 3000...3000])
        #expect(reading.configuration.services.map(\.requires) == [["dockerd", "iptables"]])
    }

    @Test("in an empty folder it shows how to begin")
    func empty() {
        let reading = starter([:])
        #expect(reading.rendered() == [] && reading.configuration.tasks.map(\.name) == ["hello"])
    }

    @Test("a broken package.json is no obstacle, and make only where nothing else is found")
    func oddities() {
        #expect(starter(["package.json": "{"]).configuration.tasks.map(\.command) == [nil])
        #expect(starter(["Makefile": ""]).configuration.tasks.map(\.initialize) == ["make"])
        #expect(starter(["pyproject.toml": "", "uv.lock": ""]).configuration.tasks.map(\.initialize) == ["uv sync"])
    }
}
