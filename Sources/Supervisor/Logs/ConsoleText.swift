internal import TerminalText

/// How the console shows the lines of several units: each behind its unit's name, on a terminal in the unit's colour and
/// with the lines of all units aligned. What moves the cursor, clears, or sets anything is left out of the lines; the log
/// files have them as they were written. Pure.
struct ConsoleText {
    /// A terminal, not a file or a pipe that a program reads.
    private let isTerminal: Bool
    private let hasColours: Bool
    /// The units, in the order in which they came, and what stands before their lines.
    private var names: [String] = []
    private var prefixes: [[UInt8]] = []
    /// The widest name, in columns.
    private var width = 0
    /// Names beyond this are not waited for: the others' lines would begin far to the right.
    private static let widthLimit = 24
    /// Cyan, yellow, green, magenta, blue and their bright forms; red is for errors.
    private static let colours = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94]

    init(isTerminal: Bool, hasColours: Bool) {
        self.isTerminal = isTerminal
        self.hasColours = isTerminal && hasColours
    }

    /// Takes a unit's name; its place, by which its lines are known from now on. All units that there are should come before
    /// the first line, so that it is aligned with all that follow.
    mutating func add(_ name: String) -> Int {
        if let place = names.firstIndex(of: name) { return place }
        names.append(name)
        width = max(width, min(columnCount(visibleText(name)), Self.widthLimit))
        prefixes = names.enumerated().map { prefix($1, $0) }
        return names.count - 1
    }

    /// What stands before the lines of a unit.
    func prefix(of place: Int) -> ArraySlice<UInt8> { prefixes.indices.contains(place) ? prefixes[place][...] : [] }

    /// A line as it is shown.
    @inline(__always)
    static func shown(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        isPlain(line) ? line : terminalLine(line)[...]
    }

    /// Most lines are: they are passed on without a copy.
    private static func isPlain(_ line: ArraySlice<UInt8>) -> Bool {
        for byte in line where byte < 0x20 || byte > 0x7e { return false }
        return true
    }

    private func prefix(_ name: String, _ index: Int) -> [UInt8] {
        let shown = "[\(visibleText(name))]"
        let blanks = String(repeating: " ", count: isTerminal ? max(0, width + 2 - columnCount(shown)) : 0)
        let colour = Self.colours[index % Self.colours.count]
        return Array((hasColours ? "\u{1b}[\(colour)m\(shown)\u{1b}[0m\(blanks) " : "\(shown)\(blanks) ").utf8)
    }
}
