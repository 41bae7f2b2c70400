/// The keys of Gitpod's schema (gitpod-schema.json of its last release), and what each does here.
enum GitpodKeys {
    static let root: [Key] = [
        Key(
            "tasks", .list(.record(task)),
            "What runs in the workspace: each task a process of its own, all started together",
            example: "[{name: web, command: npm start}]"),
        Key(
            "ports", .list(.record(port)), "Ports to forward in while something listens on them",
            example: "[{port: 3000}]"),
        Key(
            "env", .variables(), "The environment of all tasks and services; lists and mappings become JSON",
            example: "{EDITOR: vi}"),
        Key(
            "image", .oneOf([.string, .record(image)], expected: "an image's name or a mapping"),
            "The image that the workspace was made for", example: "gitpod/workspace-full", .foreign),
        Key(
            "experimentalNetwork", .boolean,
            "`true`: a network of its own; `false`: the container's. `workspacekit.network.mode` wins", example: "true",
            default: .boolean(true)),
        Key(
            "checkoutLocation", .text(.relativePath), "Where tasks run, below the workspace directory",
            example: "project"),
        Key(
            "workspaceLocation", .text(.relativePath),
            "A folder, or a `.code-workspace` file in one: where tasks run when there is no `checkoutLocation`",
            example: "project"),
        Key(
            "coreDump", .record(coreDump), "Whether crashed processes leave cores (RLIMIT_CORE)",
            example: "{enabled: true}"),
        Key(
            "gitConfig", .variables(names: .taskName),
            "Settings of git for everything that runs inside, before those of its files; no file is written",
            example: "{core.autocrlf: input}"),
        Key("github", .record(github), "Prebuilds of Gitpod's service", .deprecated),
        Key("vscode", .record(vscode), "Extensions for VS Code", .foreign),
        Key("jetbrains", .record(jetbrains), "Plugins and options for JetBrains' IDEs", .foreign),
        Key(
            "additionalRepositories", .list(.record(repository)), "Repositories that Gitpod cloned too", .foreign),
        Key("mainConfiguration", .string, "The repository that holds the configuration", .foreign),
        Key("workspacekit", .record(WorkspacekitKeys.root), "Everything that Gitpod's schema has no word for"),
    ]

    static let task: [Key] = [
        Key(
            "name", .text(.taskName), "What the task is called in the output, `status` and `logs`; without, `task-N`",
            example: "web"),
        Key(
            "before", .string, "Shell text that runs at each start, first", example: "cd project"),
        Key(
            "init", .string,
            "Shell text that runs after `before` until it has succeeded once in this workspace; a changed text does not run by itself (`restart --init`)",
            example: "npm ci"),
        Key("prebuild", .string, "Shell text that runs after `init` in a prebuild only", example: "npm run build"),
        Key(
            "command", .string,
            "Shell text that runs last, and may go on for ever; phases run in one bash, each only if the one before succeeded",
            example: "npm start"),
        Key("env", .variables(), "The task's own environment", example: "{PORT: 3000}"),
        Key(
            "openIn", .choice(["bottom", "main", "left", "right"]), "Where an editor opens the task's terminal",
            default: .string("bottom"), .foreign),
        Key(
            "openMode",
            .choice(
                ["split-left", "split-right", "tab-before", "tab-after"], retired: ["split-top", "split-bottom"]),
            "How an editor opens the task's terminal", default: .string("tab-after"), .foreign),
    ]

    static let port: [Key] = [
        Key(
            "port", .text(.portRange), "A port, or a range of them", example: "3000-3010",
            required: true),
        Key("name", .string, "Shown with the port", example: "web"),
        Key("description", .string, "Shown by `ports --json`", example: "the shop"),
        Key(
            "onOpen", .choice(["open-browser", "open-preview", "notify", "ignore", "ignore-completely"]),
            "What an editor does when something listens. `open-browser` and `open-preview` also say that HTTP is spoken there; `ignore-completely` hides the port, and it is not forwarded",
            default: .string("notify")),
        Key(
            "visibility", .choice(["private", "public"]), "Who may reach the port in Gitpod's service",
            default: .string("private"), .foreign),
        Key(
            "protocol", .choice(["http", "https"]),
            "The protocol of the URL that is shown. Without it, a URL is shown where `onOpen` opens one, for a port with an `http` health check, and for ports on which HTTP is usual"
        ),
    ]

    static let coreDump: [Key] = [
        Key("enabled", .boolean, "Whether cores are written", default: .boolean(false)),
        Key(
            "softLimit", .integer(0...Int.max), "Bytes that a process may raise up to the hard limit",
            default: .integer(1 << 30)),
        Key("hardLimit", .integer(0...Int.max), "Bytes at most", default: .integer(1 << 30)),
    ]

    static let image: [Key] = [
        Key("file", .string, "The Dockerfile", example: ".gitpod.Dockerfile", required: true),
        Key("context", .string, "The folder to build in", example: "docker"),
    ]

    static let repository: [Key] = [
        Key("url", .string, "The repository", required: true),
        Key("checkoutLocation", .string, "Where it is cloned to"),
    ]

    static let github: [Key] = [
        Key(
            "prebuilds", .oneOf([.boolean, .record(prebuilds)], expected: "true, false or a mapping"),
            "When to prebuild",
            default: .boolean(true), .deprecated)
    ]

    static let prebuilds: [Key] = [
        Key("master", .boolean, "For the default branch", default: .boolean(true), .deprecated),
        Key("branches", .boolean, "For all branches", default: .boolean(false), .deprecated),
        Key("pullRequests", .boolean, "For pull requests", default: .boolean(true), .deprecated),
        Key("pullRequestsFromForks", .boolean, "For pull requests from forks", default: .boolean(false), .deprecated),
        Key("addBadge", .boolean, "A badge in pull requests", default: .boolean(true), .deprecated),
        Key("addCheck", .anything, "A check in pull requests", default: .boolean(true), .deprecated),
        Key("addLabel", .anything, "A label on pull requests", default: .boolean(false), .deprecated),
        Key("addComment", .anything, "A comment in pull requests", .deprecated),
    ]

    static let vscode: [Key] = [Key("extensions", .list(.string), "`publisher.name` of each", .foreign)]

    static let jetbrains: [Key] =
        [Key("plugins", .list(.string), "Plugins for all of them", .foreign)]
        + ["intellij", "goland", "pycharm", "phpstorm", "rubymine", "webstorm", "rider", "clion", "rustrover"].map {
            Key($0, .record(product), "Plugins and options of this one", .foreign)
        }

    static let product: [Key] = [
        Key("plugins", .list(.string), "Plugins for it", .foreign),
        Key(
            "prebuilds",
            .record([
                Key(
                    "version", .choice(["stable", "latest", "both"]), "The release to index for",
                    default: .string("stable"), .foreign)
            ]), "What to index in a prebuild", .foreign),
        Key("vmoptions", .string, "Options of its virtual machine", .foreign),
    ]
}
