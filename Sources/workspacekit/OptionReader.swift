/// getopt_long(3)'s way through a command line: clustered letters, values attached or apart, long options by any
/// unambiguous beginning, and `--` as the end of the options.
struct OptionReader<Option: Equatable & Sendable> {
    /// One option: how it is written, and whether a value follows.
    struct Form: Sendable {
        let option: Option
        var letter: Character?, name: String?
        var takesValue = false
    }

    /// The next word of a command line.
    enum Word {
        case option(Option, value: String)
        case operand(String)
    }

    private let forms: [Form]
    private var arguments: ArraySlice<String>
    private var cluster: Substring = ""

    init(_ arguments: [String], _ forms: [Form]) {
        self.arguments = arguments[...]
        self.forms = forms
    }

    /// The words that were not read yet.
    var rest: [String] { Array(arguments) }

    /// Reads the next option or operand; nil at the end or after `--`.
    mutating func next() throws(OptionError) -> Word? {
        if let letter = cluster.popFirst() { return try read(letter) }
        guard let word = arguments.popFirst(), word != "--" else { return nil }
        if word.hasPrefix("--") { return try readLong(word.dropFirst(2)) }
        guard word.hasPrefix("-"), word != "-" else { return .operand(word) }
        cluster = word.dropFirst()
        return try next()
    }

    private mutating func read(_ letter: Character) throws(OptionError) -> Word {
        guard let form = forms.first(where: { $0.letter == letter }) else {
            throw OptionError(message: "invalid option -- '\(letter)'")
        }
        guard form.takesValue else { return .option(form.option, value: "") }
        defer { cluster = "" }
        if !cluster.isEmpty { return .option(form.option, value: String(cluster)) }
        guard let value = arguments.popFirst() else {
            throw OptionError(message: "option requires an argument -- '\(letter)'")
        }
        return .option(form.option, value: value)
    }

    private mutating func readLong(_ word: Substring) throws(OptionError) -> Word {
        let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        let name = String(parts.first ?? "")
        var found = forms.filter { $0.name == name }
        if found.isEmpty { found = forms.filter { $0.name?.hasPrefix(name) ?? false } }
        guard let form = found.first else { throw OptionError(message: "unrecognized option '--\(word)'") }
        guard found.count == 1 else {
            let names = found.compactMap(\.name).map { "'--\($0)'" }.joined(separator: " ")
            throw OptionError(message: "option '--\(word)' is ambiguous; possibilities: \(names)")
        }
        let full = form.name ?? name
        if parts.count > 1 {
            guard form.takesValue else { throw OptionError(message: "option '--\(full)' doesn't allow an argument") }
            return .option(form.option, value: String(parts[1]))
        }
        guard form.takesValue else { return .option(form.option, value: "") }
        guard let value = arguments.popFirst() else {
            throw OptionError(message: "option '--\(full)' requires an argument")
        }
        return .option(form.option, value: value)
    }
}

/// The reason that a command line cannot be read, in getopt_long(3)'s words.
struct OptionError: Error, Equatable {
    let message: String
}
