/// A line of a program's output for a terminal that shows other programs' lines too: colours stay and end with the line, a
/// carriage return shows the text after it, as a terminal would, and everything that moves, clears or sets is left out.
public func terminalLine(_ line: ArraySlice<UInt8>) -> [UInt8] {
    if line.allSatisfy({ $0 >= 0x20 && $0 < 0x7f }) { return Array(line) }
    var sequences = ControlSequences(line)
    var kept: [UInt8] = []
    // The styles in force where the text begins; without them, text after a carriage return would lose its colour.
    var styles: [UInt8] = []
    var isStyled = false
    var isReturned = false
    while let (piece, bytes) = sequences.next() {
        switch piece {
        case .text:
            if isReturned { kept = styles }
            isReturned = false
            kept += bytes
        case .style:
            isStyled = !isReset(bytes)
            styles = isStyled ? (styles.count < styleLimit ? styles + bytes : Array(bytes)) : []
            kept += bytes
        case .carriageReturn: isReturned = true
        case .control: break
        }
    }
    if isStyled { kept += resetStyle }
    return kept
}

/// `ESC [ m`: no colour and no attribute.
public let resetStyle = Array("\u{1b}[0m".utf8)

private let styleLimit = 64

/// Whether a style takes all others back: its only, or last, parameter is 0 or empty.
private func isReset(_ style: ArraySlice<UInt8>) -> Bool {
    let parameters = style.dropLast().drop { $0 != UInt8(ascii: "[") && $0 != 0x9b }.dropFirst()
    let last = parameters.split(separator: UInt8(ascii: ";"), omittingEmptySubsequences: false).last ?? []
    return last.allSatisfy { $0 == UInt8(ascii: "0") }
}

/// How many columns a text takes on a terminal: East Asian wide characters and emoji take two, marks that combine none.
public func columnCount(_ text: String) -> Int {
    text.reduce(0) { $0 + columns(of: $1) }
}

/// As much of a text as so many columns hold.
public func fitted(_ text: String, columns limit: Int) -> String {
    var result = ""
    var count = 0
    for character in text {
        count += columns(of: character)
        if count > limit { break }
        result.append(character)
    }
    return result
}

/// A text with spaces behind it up to so many columns.
public func padded(_ text: String, columns width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - columnCount(text)))
}

private func columns(of character: Character) -> Int {
    guard let scalar = character.unicodeScalars.first else { return 0 }
    if scalar.value < 0x300 { return scalar.value == 0xad ? 0 : 1 }
    switch scalar.properties.generalCategory {
    case .nonspacingMark, .enclosingMark, .format: return 0
    default: break
    }
    // A variation selector asks for the picture, which is wide.
    if scalar.properties.isEmojiPresentation || character.unicodeScalars.contains("\u{fe0f}") { return 2 }
    switch scalar.value {
    // Unicode's East_Asian_Width W and F (UAX #11), by blocks.
    case 0x1100...0x115f, 0x2e80...0x303e, 0x3041...0x33ff, 0x3400...0x4dbf, 0x4e00...0x9fff, 0xa000...0xa4cf,
        0xa960...0xa97c, 0xac00...0xd7a3, 0xf900...0xfaff, 0xfe30...0xfe6f, 0xff00...0xff60, 0xffe0...0xffe6,
        0x17000...0x18cff, 0x1b000...0x1b2ff, 0x1f200...0x1f2ff, 0x20000...0x3fffd:
        return 2
    default: return 1
    }
}
