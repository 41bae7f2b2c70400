/// A first `.gitpod.yml` for a folder, from the files that lie in it: what a developer would write down after reading them.
public struct Starter {
    /// Files whose content is looked into; of all others only their presence counts.
    public static let read = ["package.json", "pyproject.toml", "composer.json", "Gemfile", "Makefile"]

    private let files: [String: String]
    private let names: Set<String>

    /// - Parameters:
    ///   - names: the names in the folder.
    ///   - files: the texts of those in ``read`` that are there.
    public init(names: [String], files: [String: String]) {
        self.names = Set(names)
        self.files = files
    }

    private struct Project {
        var name: String
        var found: String
        var initialize: String?
        var command: String?
        var port: (number: Int, name: String)?
    }

    /// The languages found, for a sentence.
    public var findings: [String] { projects.map(\.found) }

    /// The file's text, with comments.
    public var text: String {
        let projects = projects
        var out = """
            # What this workspace runs. "workspacekit validate" checks it, "workspacekit run" brings it up.
            # All keys: docs/configuration.md, workspacekit.yml(5).

            tasks:

            """
        if projects.isEmpty {
            out += """
                  # Each task is a process of its own, all started together. "before" runs at each start, "init" until it has
                  # succeeded once in this workspace, "command" last.
                  - name: hello
                    command: echo "edit .gitpod.yml to say what this workspace runs"

                """
        }
        for project in projects {
            out += "  # \(project.found)\n  - name: \(project.name)\n"
            if let text = project.initialize { out += "    init: \(YAMLText(Node(.string(text))).text)" }
            if let text = project.command { out += "    command: \(YAMLText(Node(.string(text))).text)" }
        }
        let ports = projects.compactMap(\.port)
        if ports.isEmpty {
            out += "\n# Ports that are forwarded while something listens on them.\n# ports:\n#   - port: 3000\n"
        } else {
            out += "\n# Forwarded while something listens on them.\nports:\n"
            var seen: Set<Int> = []
            for port in ports where seen.insert(port.number).inserted {
                out += "  - port: \(port.number)\n    name: \(port.name)\n"
            }
        }
        return out + services
    }

    /// A file that `config import` reads; nil for none.
    public var composeFile: String? {
        ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"].first(where: names.contains)
    }

    private var services: String {
        let found = ["Dockerfile", "Containerfile"].first(where: names.contains) ?? composeFile
        guard let found else {
            // A program of Debian's and most others' packages that runs as root, as another user, and at once.
            return """

                # Programs that are kept running; one that is not installed is skipped:
                # workspacekit:
                #   services:
                #     cache:
                #       command: redis-server --port 6379 --save "" --dir /tmp
                #       requires: [redis-server]
                #       healthcheck: {port: 6379, interval: 1s}
                #       restart: on-failure

                """
        }
        let compose = composeFile.map {
            "\n# The services of \($0) can run here without Docker:\n# \"workspacekit config import \($0)\" prints them for this file.\n"
        }
        return (compose ?? "") + """

            # \(found): Docker, where it is installed; skipped where it is not.
            workspacekit:
              services:
                docker:
                  command: dockerd --rootless
                  requires: [dockerd, iptables]
                  healthcheck: {test: [CMD, docker, version], interval: 5s}
                  restart: always

            """
    }

    private var projects: [Project] {
        [
            node, python, go, rust, ruby, php, java, dotnet, elixir, swift,
        ].compactMap { $0 } + (makeOnly.map { [$0] } ?? [])
    }

    private var node: Project? {
        guard names.contains("package.json") else { return nil }
        let package = (try? YAMLReader.read(plainJSON(Array((files["package.json"] ?? "").utf8))))?.root
        let (manager, install) =
            names.contains("pnpm-lock.yaml")
            ? ("pnpm", "pnpm install --frozen-lockfile")
            : names.contains("yarn.lock")
                ? ("yarn", "yarn install")
                : names.contains("bun.lock") || names.contains("bun.lockb")
                    ? ("bun", "bun install") : ("npm", names.contains("package-lock.json") ? "npm ci" : "npm install")
        let script = ["dev", "start", "serve"].first { package?["scripts"]?[$0] != nil }
        let dependencies = (package?["dependencies"]?.pairs ?? []) + (package?["devDependencies"]?.pairs ?? [])
        let known = [
            ("vite", 5173), ("@angular/cli", 4200), ("astro", 4321), ("gatsby", 8000), ("@vue/cli-service", 8080),
            ("next", 3000), ("react-scripts", 3000), ("nuxt", 3000), ("express", 3000), ("fastify", 3000),
        ]
        let port = known.first { entry in dependencies.contains { $0.key.text == entry.0 } }
        return Project(
            name: "node", found: "package.json, with \(manager)", initialize: install,
            command: script.map { "\(manager) run \($0)" },
            port: script == nil ? nil : port.map { ($0.1, "web") })
    }

    private var python: Project? {
        let project = files["pyproject.toml"]
        let sources: [(String, String)] = [
            ("uv.lock", "uv sync"), ("poetry.lock", "poetry install"), ("Pipfile", "pipenv install --dev"),
            ("requirements.txt", "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"),
        ]
        let source = sources.first { names.contains($0.0) }
        guard source != nil || project != nil || names.contains("manage.py") || names.contains("setup.py") else {
            return nil
        }
        let install =
            source?.1
            ?? (names.contains("manage.py") && project == nil
                ? nil : "python3 -m venv .venv && .venv/bin/pip install -e .")
        let runner =
            source?.0 == "uv.lock"
            ? "uv run python"
            : source?.0 == "poetry.lock"
                ? "poetry run python"
                : source?.0 == "Pipfile" ? "pipenv run python" : install == nil ? "python3" : ".venv/bin/python"
        let isDjango = names.contains("manage.py")
        return Project(
            name: "python",
            found: source?.0 ?? (project != nil ? "pyproject.toml" : isDjango ? "manage.py" : "setup.py"),
            initialize: install, command: isDjango ? "\(runner) manage.py runserver" : nil,
            port: isDjango ? (8000, "django") : nil)
    }

    private var go: Project? {
        guard names.contains("go.mod") else { return nil }
        return Project(
            name: "go", found: "go.mod", initialize: "go mod download && go build ./...",
            command: names.contains("main.go") ? "go run ." : nil, port: nil)
    }

    private var rust: Project? {
        guard names.contains("Cargo.toml") else { return nil }
        return Project(name: "rust", found: "Cargo.toml", initialize: "cargo build", command: nil, port: nil)
    }

    private var ruby: Project? {
        guard let gemfile = files["Gemfile"] ?? (names.contains("Gemfile") ? "" : nil) else { return nil }
        let isRails = gemfile.split(whereSeparator: \.isNewline).contains { line in
            let words = line.split { !$0.isLetter && !$0.isNumber && $0 != "_" && $0 != "-" }
            return words.count >= 2 && words[0] == "gem" && words[1] == "rails"
        }
        return Project(
            name: "ruby", found: isRails ? "Gemfile, with Rails" : "Gemfile", initialize: "bundle install",
            command: isRails ? "bin/rails server" : nil, port: isRails ? (3000, "rails") : nil)
    }

    private var php: Project? {
        guard names.contains("composer.json") else { return nil }
        let isLaravel = names.contains("artisan")
        return Project(
            name: "php", found: isLaravel ? "composer.json, with Laravel" : "composer.json",
            initialize: "composer install", command: isLaravel ? "php artisan serve" : nil,
            port: isLaravel ? (8000, "laravel") : nil)
    }

    private var java: Project? {
        if names.contains("pom.xml") {
            let maven = names.contains("mvnw") ? "./mvnw" : "mvn"
            return Project(
                name: "java", found: "pom.xml", initialize: "\(maven) -q -DskipTests package", command: nil, port: nil)
        }
        guard let build = ["build.gradle", "build.gradle.kts"].first(where: names.contains) else { return nil }
        let gradle = names.contains("gradlew") ? "./gradlew" : "gradle"
        return Project(name: "java", found: build, initialize: "\(gradle) assemble", command: nil, port: nil)
    }

    private var dotnet: Project? {
        guard let found = names.sorted().first(where: { [".sln", ".csproj", ".fsproj"].contains(where: $0.hasSuffix) })
        else {
            return nil
        }
        return Project(
            name: "dotnet", found: found, initialize: "dotnet restore",
            command: found.hasSuffix(".sln") ? nil : "dotnet run",
            port: nil)
    }

    private var elixir: Project? {
        guard names.contains("mix.exs") else { return nil }
        return Project(
            name: "elixir", found: "mix.exs", initialize: "mix deps.get && mix compile", command: nil, port: nil)
    }

    private var swift: Project? {
        guard names.contains("Package.swift") else { return nil }
        return Project(name: "swift", found: "Package.swift", initialize: "swift build", command: nil, port: nil)
    }

    /// A Makefile says little where a language's own tools say more.
    private var makeOnly: Project? {
        let others = [node, python, go, rust, ruby, php, java, dotnet, elixir, swift]
        guard names.contains("Makefile"), others.allSatisfy({ $0 == nil }) else { return nil }
        return Project(name: "make", found: "Makefile", initialize: "make", command: nil, port: nil)
    }
}
