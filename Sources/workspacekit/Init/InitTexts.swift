internal import Control

/// # Theory of operation
///
/// What a binary called as tini or dumb-init prints is part of the interface that it stands in for. Where the suites of those
/// programs compare an output as a whole, it is theirs to the byte, and these texts are not ours to improve:
///
///     dumb-init 1.2.5   tests/cli_test.py: version, help, the errors for no arguments, a wrong option and a wrong -r;
///                       tests/proxies_signals_test.py and others: the debug lines with [dumb-init] (InitMessage)
///     tini 0.19         test/run_inner_tests.py and its outer tests look for phrases: "tini version", "supervision of a valid
///                       init process", "more verbose", "zombie reaping won't work", "Reaped zombie process with pid="
///
/// Everything else, tini's help around these phrases and the licence too, is in our own words.

extension InitPersonality {
    /// The answer to `--version`.
    var version: String {
        switch self {
        case .tini: "tini version 0.19.0 (workspacekit \(Version.current))\n"
        case .dumbInit: "dumb-init v1.2.5\n"
        case .workspacekit: "workspacekit init \(Version.current)\n"
        }
    }

    /// The answer to help, for a program that was called as `program`.
    func usage(_ program: String) -> String { self == .dumbInit ? dumbInitUsage(program) : tiniUsage(program) }

    /// The lines for a command line that cannot be used.
    func complaint(_ error: InitUsageError, _ program: String) -> String {
        if self == .dumbInit {
            // Compared as a whole: see above.
            switch error {
            case .option(let error): return "\(program): \(error.message)\n"
            case .rewrite:
                return """
                    Usage: -r option takes <signum>:<signum>, where <signum> is between 1 and 31.
                    This option can be specified multiple times.
                    Use --help for full usage.

                    """
            case .noProgram:
                return "Usage: \(program) [option] program [args]\nTry \(program) --help for full usage.\n"
            case .value(let text): return "\(program): \(text)\n"
            }
        }
        let text =
            switch error {
            case .option(let error): error.message
            case .value(let text): text
            case .rewrite: "not a valid signal rewrite"
            case .noProgram: "no program is named"
            }
        return "\(program): \(text)\n" + usage(program)
    }

    /// Compared as a whole: see above.
    private func dumbInitUsage(_ program: String) -> String {
        version + """
            Usage: \(program) [option] command [[arg] ...]

            dumb-init is a simple process supervisor that forwards signals to children.
            It is designed to run as PID1 in minimal container environments.

            Optional arguments:
               -c, --single-child   Run in single-child mode.
                                    In this mode, signals are only proxied to the
                                    direct child and not any of its descendants.
               -r, --rewrite s:r    Rewrite received signal s to new signal r before proxying.
                                    To ignore (not proxy) a signal, rewrite it to 0.
                                    This option can be specified multiple times.
               -v, --verbose        Print debugging information to stderr.
               -h, --help           Print this help message and exit.
               -V, --version        Print the current version and exit.

            Full help is available online at https://github.com/Yelp/dumb-init

            """
    }

    /// Our words around the phrases that tini's suite looks for.
    private func tiniUsage(_ program: String) -> String {
        let isOurs = self == .workspacekit
        return """
            usage: \(program) [-gsvw] [-p SIGNAL] [-e CODE]...\(isOurs ? " [-r FROM:TO]..." : "") [--] PROGRAM [ARGUMENT]...

            Runs a program under the supervision of a valid init process.

              -g         signal the program's process group, not the program alone
              -s         be a subreaper, where this is not PID 1
              -w         say which orphans are reaped
              -p SIGNAL  take this signal when the parent dies
              -e CODE    exit with 0 when the program exits with CODE
            \(isOurs ? "  -r FROM:TO send TO when FROM comes; 0 sends nothing\n" : "")  -v         more verbose with each
              -l         the licence; -h; --version
            \(isOurs ? "\n  workspacekit init -g -- nginx -g 'daemon off;'\n" : "")
            """
    }

    /// The answer to `-l`.
    static let license = """
        MIT License

        Copyright (c) 2026 the workspacekit authors

        Permission is hereby granted, free of charge, to any person obtaining a copy
        of this software and associated documentation files (the "Software"), to deal
        in the Software without restriction, including without limitation the rights
        to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
        copies of the Software, and to permit persons to whom the Software is
        furnished to do so, subject to the following conditions:

        The above copyright notice and this permission notice shall be included in all
        copies or substantial portions of the Software.

        THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
        IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
        FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
        AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
        LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
        OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
        SOFTWARE.

        """
}
