/// The keys under `workspacekit:`, or of a `.workspacekit.yml`.
enum WorkspacekitKeys {
    static let root: [Key] = [
        Key("network", .record(network), "The workspace's network"),
        Key(
            "user", .text(.user),
            "The user that tasks run as. Without it, root inside, which is the user outside who started the workspace",
            example: "gitpod"),
        Key(
            "services", .table(names: .name, .record(service)), "Programs that are kept running",
            example: "{db: {command: postgres -D data}}"),
        Key(
            "tasks", .table(names: .taskName, .record(unit)), "More about a task, by its name",
            example: "{web: {restart: on-failure}}"),
        Key("shutdown", .record(shutdown), "How the workspace stops"),
        Key(
            "filesystem", .record(filesystem),
            "What the workspace sees of the container's files, and where it may write"),
        Key(
            "writable", .list(.text(.absolutePath)), "The former name of `filesystem.writable`",
            example: "[/etc, /run]",
            .replaced(by: "workspacekit.filesystem.writable")),
    ]

    static let filesystem: [Key] = [
        Key(
            "root", .choice(["shared", "read-only", "private"]),
            "`shared`: the container's files. `private`: what is written outside of the writable places lies in memory and ends with the workspace. `read-only`: nothing is written there. With the last two /run and /tmp are the workspace's own. Default: `private` with a network policy (`network.mode: none`, `run --network none`, or `network.egress` that restricts), where `shared` is an error; else `shared`",
            example: "private"),
        Key(
            "writable", .list(.text(.absolutePath)),
            "Directories of the container in which root inside makes files that stay; the workspace directory always is one. Where the container does not allow it, a tmpfs covers the directory, with what was there as copies and links, and what is written ends with the workspace",
            example: "[/var/lib/docker, /home/gitpod]"),
        Key(
            "hidden", .list(.text(.absolutePath)),
            "Files and directories that are empty inside: sockets of the host, secrets, other state directories",
            example: "[/var/lib/secrets]"),
    ]

    static let shutdown: [Key] = [
        Key(
            "grace", .text(.duration), "How long everything may take to stop before it is killed", example: "8s",
            default: .string("8s"))
    ]

    static let network: [Key] = [
        Key(
            "mode", .choice(["sandbox", "host", "none"]),
            "`sandbox`: a network of its own; `host`: the container's; `none`: lo only. `run --network` wins",
            example: "sandbox", default: .string("sandbox")),
        Key("mtu", .integer(1280...65521), "The link's largest packet", example: "1400", default: .integer(1500)),
        Key("gso", .boolean, "Superpackets of up to 64 KiB on the link; faster", default: .boolean(true)),
        Key("ipv6", .boolean, "IPv6 inside", default: .boolean(true)),
        Key(
            "addresses", .choice(["nat", "copy"]),
            "`nat`: addresses of its own; `copy`: the container's own addresses and routes inside",
            default: .string("nat")),
        Key(
            "cidr", .text(.network),
            "The workspace's IPv4 network; the gateway is its second address, the name server the third. `auto`: 10.0.2.0/24, or another one where the container reaches something there. With copied addresses these two only, `auto` being 169.254.2.0/24",
            example: "10.0.2.0/24", default: .string("auto")),
        Key(
            "link", .choice(["auto", "tap", "packet"]), "The device between workspace and forwarder",
            default: .string("auto")),
        Key("bypass", .boolean, "Sockets at native speed, by seccomp", default: .boolean(false), .later),
        Key(
            "hostLoopback", .list(.text(.portAndProtocol)),
            "Ports of the container's loopback that answer at the gateway's address; nothing else of it is reachable",
            example: "[5432/tcp]"),
        Key("dns", .record(dns), "Names"),
        Key("egress", .record(egress), "Where the workspace may connect to"),
        Key(
            "forwards", .list(.text(.forward)),
            "Ports outside that lead inside, as Compose writes them, while something listens there",
            example: "[\"8080:80/tcp\"]"),
    ]

    static let dns: [Key] = [
        Key(
            "servers", .list(.text(.address)), "Name servers; without, the container's", example: "[198.51.100.53]"),
        Key(
            "search", .list(.text(.domain)), "Search domains; without, the container's", example: "[example.org]"),
    ]

    static let egress: [Key] = [
        Key(
            "default", .choice(["allow", "deny"]),
            "What holds for flows that no rule names; with `deny`, names that no rule allows cannot be looked up either",
            default: .string("allow")),
        Key(
            "allow", .list(.text(.egressRule)),
            "Networks and names that may be reached; `*.` before a name means all names below it",
            example: "[\"*.npmjs.org:443\", 10.0.0.0/8]"),
        Key(
            "deny", .list(.text(.egressRule)), "Networks and names that may not, whatever `allow` says",
            example: "[\"[fd00::/8]:25/tcp\"]"),
    ]

    static let service: [Key] =
        [
            Key(
                "command",
                .oneOf([.text(.command), .list(.string)], expected: "a command: a text or a list"),
                "The program and its arguments: a list, or a text split at blanks with quotes, without a shell",
                example: "dockerd --host unix:///var/run/docker.sock", required: true),
            Key(
                "environment", .variables(fromHost: true),
                "Its own environment; `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `${NAME:+other}` and `$$` for `$` as in Compose. A NAME without a value takes the one that workspacekit was started with, or is unset",
                example: "{PGDATA: \"${DATA:-/workspace}/db\"}"),
            Key(
                "requires", .oneOf([.string, .list(.string)], expected: "a program or a list of programs"),
                "Executables without which the service is skipped, said in one line", example: "[dockerd]"),
            Key(
                "listen",
                .list(
                    .oneOf([.text(.listener), .record(listener)], expected: "a path, a port or {path, mode, group}")),
                "Sockets made for it before it starts and kept across restarts (sd_listen_fds)",
                example: "[/var/run/docker.sock]"),
        ] + unit

    static let unit: [Key] = [
        Key(
            "restart", .text(.restart),
            "`no`, `always`, `on-failure[:max]` (8 in a row), `unless-stopped`. 500 ms, doubled up to 30 s with up to 10 % jitter, forgotten after 30 s up",
            example: "on-failure:3", default: .string("no")),
        Key("user", .text(.user), "The user that it runs as", example: "postgres"),
        Key(
            "working_dir", .text(.path),
            "Where it runs; relative to the workspace directory; with `${NAME}` as `environment`",
            example: "server"),
        Key(
            "env_file",
            .oneOf(
                [
                    .text(.path),
                    .list(.oneOf([.text(.path), .record(environmentFile)], expected: "a file or {path, required}")),
                ], expected: "a file or a list of files"),
            "Files of NAME=value, one a line; `environment` wins. Without one of them the unit is skipped",
            example: "[.env]"),
        Key(
            "depends_on",
            .oneOf(
                [.list(.text(.taskName)), .table(names: .taskName, .record(dependency))],
                expected: "a list of names or a mapping"), "What must have happened before it starts",
            example: "{db: {condition: service_healthy}}"),
        Key(
            "healthcheck", .record(healthcheck, oneOf: ["test", "port", "http"]),
            "How it is found to be healthy; one of `test`, `port` and `http`"),
        Key(
            "ready", .record(ready, oneOf: ["notify", "log"]),
            "How it says that it is ready; one of `notify` and `log`"),
        Key(
            "success_exit_codes", .list(.integer(1...255)),
            "Exit codes that are a success besides 0; 128 + n for signal n", example: "[3, 143]"),
        Key(
            "pre_stop",
            .oneOf(
                [.text(.command), .list(.record(hook))],
                expected: "a command or a list of {command}"),
            "What runs before it is asked to end, within its grace: a command, or Compose's list of them",
            example: "pg_ctl stop -D data -m fast"),
        Key("stop_signal", .text(.signal), "What asks it to end", example: "SIGINT", default: .string("SIGTERM")),
        Key(
            "stop_grace_period", .text(.duration), "How long it may take to end before it is killed", example: "1m30s",
            default: .string("5s")),
        Key(
            "essential", .boolean, "When it ends for good, the workspace ends with its status", default: .boolean(false)
        ),
        Key(
            "ulimits",
            .record(
                ResourceLimit.Resource.allCases.map {
                    Key(
                        $0.rawValue,
                        .oneOf([.integer(-1...Int.max), .record(limit)], expected: "a number or {soft, hard}"),
                        "RLIMIT_\($0.rawValue.uppercased()); -1 is unlimited")
                }), "Limits of its processes (setrlimit(2))", example: "{nofile: 65536}"),
        Key(
            "oom_score_adj", .integer(-1000...1000),
            "How early the kernel kills it when memory runs out: 1000 first, -1000 never",
            example: "500", default: .integer(0)),
        Key(
            "mem_limit", .text(.size), "Memory of all its processes together; where cgroup2 is delegated",
            example: "512m"),
        Key(
            "cpus", .text(.processors), "Processors' time that it may take; where cgroup2 is delegated", example: "1.5"),
        Key(
            "pids_limit", .integer(1...4_194_304), "How many processes and threads; where cgroup2 is delegated",
            example: "200"),
        Key(
            "kill_mode", .choice(["control-group", "mixed", "process-group"]),
            "Which processes get the stop signal, and which are killed once the main process has ended or its grace is over. `control-group`: the process group gets the signal, and everything that the unit started is killed. `mixed`: only the main process gets the signal, for programs that end their workers themselves, such as gunicorn or celery. `process-group`: processes that left the group live on, for programs whose processes are to outlive them, such as dockerd",
            default: .string("control-group")),
        Key("nice", .integer(-20...19), "Its scheduling priority: 19 is the lowest, -20 the highest", example: "10"),
        Key("umask", .text(.mask), "Permission bits that files it makes do not get", example: "\"027\""),
        Key(
            "tty", .boolean, "It runs on a terminal of its own, for `workspacekit attach`", default: .boolean(false)),
        Key("logging", .record(logging), "Its log files"),
    ]

    static let environmentFile: [Key] = [
        Key("path", .text(.path), "The file", required: true),
        Key("required", .boolean, "`false`: it may be missing", default: .boolean(true)),
    ]

    static let listener: [Key] = [
        Key("path", .text(.absolutePath), "Where the socket is", required: true),
        Key("mode", .text(.mask), "Its permissions; without, everybody may connect", example: "\"0660\""),
        Key(
            "group", .text(.name), "The group that owns it; without, the group of the user that the service runs as",
            example: "docker"),
    ]

    static let dependency: [Key] = [
        Key(
            "condition", .choice(DependencySpec.Condition.allCases.map(\.rawValue)), "What must have happened",
            default: .string("service_started")),
        Key(
            "required", .boolean, "`false`: it also starts when that one is skipped or has failed",
            default: .boolean(true)),
    ]

    static let hook: [Key] = [
        Key(
            "command",
            .oneOf([.text(.command), .list(.string)], expected: "a command: a text or a list"),
            "A program and its arguments, as `command` of a service", example: "./drain --now", required: true)
    ]

    static let healthcheck: [Key] = [
        Key(
            "test", .oneOf([.string, .list(.string)], expected: "a text or a list"),
            "`[CMD, PROGRAM, …]`, `[CMD-SHELL, TEXT]` or shell text; healthy when it exits with 0",
            example: "[CMD, docker, version]"),
        Key("port", .integer(1...65535), "Healthy when a connection to this TCP port is accepted", example: "5432"),
        Key(
            "http", .text(.url), "Healthy when the answer's status is below 400",
            example: "http://localhost:8080/healthz"),
        Key("interval", .text(.duration), "From one probe to the next", default: .string("30s")),
        Key("timeout", .text(.duration), "How long a probe may take", default: .string("30s")),
        Key("retries", .integer(1...1000), "Failures in a row after which it is unhealthy", default: .integer(3)),
        Key(
            "start_period", .text(.duration), "Failures in this time after the start do not count",
            default: .string("0s")),
        Key("start_interval", .text(.duration), "The interval during `start_period`", default: .string("5s")),
    ]

    static let ready: [Key] = [
        Key(
            "notify", .choice(["fd", "sd_notify"]),
            "`fd`: it writes a newline to the descriptor that $NOTIFY_FD names; `sd_notify`: READY=1 to $NOTIFY_SOCKET",
            example: "sd_notify"),
        Key(
            "watchdog", .text(.duration),
            "With `sd_notify`: it sends WATCHDOG=1 at least so often ($WATCHDOG_USEC), or it is unhealthy and is stopped",
            example: "30s"),
        Key(
            "timeout", .text(.duration),
            "It is stopped when it has not said so after so long, and starts anew by its policy",
            example: "1m"),
        Key("log", .text(.expression), "A line that it prints matches", example: "\"ready to accept connections\""),
    ]

    static let limit: [Key] = [
        Key("soft", .integer(-1...Int.max), "The limit that holds", required: true),
        Key("hard", .integer(-1...Int.max), "What a process may raise it to", required: true),
    ]

    static let logging: [Key] = [
        Key("max-size", .text(.size), "When a file is full", default: .string("4m")),
        Key("max-file", .integer(1...100), "How many files are kept", default: .integer(3)),
    ]
}
