/// A part of what a program printed for a terminal.
public enum TerminalPiece: Hashable, Sendable {
    /// Bytes that show themselves; a tab counts as text.
    case text
    /// A select graphic rendition: a colour or an attribute of the text that follows.
    case style
    /// A carriage return.
    case carriageReturn
    /// Anything else that a terminal acts on: it moves, clears, sets a title, answers, or rings.
    case control
}

/// # Theory of operation
///
/// Splits bytes into text and what a terminal acts on, by ECMA-48: control functions of C0 and C1, escape sequences,
/// control sequences (CSI) and control strings (OSC, DCS, SOS, PM, APC). C1 stands in UTF-8 as C2 80 to C2 9F, and
/// terminals without UTF-8 take the bytes 80 to 9F for it; those never begin a character, so they are never text.
///
/// A sequence ends with the input at the latest: the part that a terminal would wait for was not sent to it.
public struct ControlSequences: ~Copyable {
    private let bytes: ArraySlice<UInt8>
    private var index: Int

    /// A reader of these bytes.
    public init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        index = bytes.startIndex
    }

    /// The next piece, or nil at the end. Neighbouring bytes of text are one piece.
    public mutating func next() -> (piece: TerminalPiece, bytes: ArraySlice<UInt8>)? {
        let start = index
        while index < bytes.endIndex {
            let length = textLength
            if length == 0 { break }
            index += length
        }
        if index > start { return (.text, bytes[start..<index]) }
        guard index < bytes.endIndex else { return nil }
        let piece = control()
        return (piece, bytes[start..<index])
    }

    private func byte(_ offset: Int) -> UInt8? {
        index + offset < bytes.endIndex ? bytes[index + offset] : nil
    }

    /// How many bytes of text begin here; 0 for none.
    private var textLength: Int {
        let first = bytes[index]
        switch first {
        case 0x09, 0x20...0x7e: return 1
        case 0..<0x20, 0x7f, 0x80...0x9f: return 0
        case 0xc2:
            guard let second = byte(1) else { return 1 }
            return (0x80...0x9f).contains(second) ? 0 : (0xa0...0xbf).contains(second) ? 2 : 1
        case 0xc3...0xf4:
            // A character that is cut off or wrong is text up to where it goes wrong, and never hides a C1 byte.
            let length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4
            let isWhole = (1..<length).allSatisfy { offset in byte(offset).map { (0x80...0xbf).contains($0) } ?? false }
            return isWhole ? length : 1
        default: return 1
        }
    }

    private mutating func control() -> TerminalPiece {
        let first = bytes[index]
        index += 1
        switch first {
        case 0x0d: return .carriageReturn
        case 0x1b:
            guard let second = byte(0) else { return .control }
            switch second {
            case 0x40...0x5f:
                index += 1
                return c1(second + 0x40)
            case 0x20...0x2f:
                while let next = byte(0), (0x20...0x2f).contains(next) { index += 1 }
                if let last = byte(0), (0x30...0x7e).contains(last) { index += 1 }
            case 0x30...0x7e: index += 1
            default: break
            }
            return .control
        case 0xc2:
            let second = byte(0) ?? 0x80
            index += 1
            return c1(second)
        case 0x80...0x9f: return c1(first)
        default: return .control
        }
    }

    /// A control function of C1 whose introducer has been read.
    private mutating func c1(_ code: UInt8) -> TerminalPiece {
        switch code {
        case 0x9b: return controlSequence()
        case 0x90, 0x98, 0x9d, 0x9e, 0x9f: skipString()
        default: break
        }
        return .control
    }

    private mutating func controlSequence() -> TerminalPiece {
        var isPlain = true
        while let next = byte(0), (0x20...0x3f).contains(next) {
            // `<`, `=`, `>`, `?` make it a private sequence, bytes below 0x30 another function.
            isPlain = isPlain && (0x30...0x3b).contains(next)
            index += 1
        }
        guard let last = byte(0), (0x40...0x7e).contains(last) else { return .control }
        index += 1
        return last == UInt8(ascii: "m") && isPlain ? .style : .control
    }

    /// Up to BEL or the string terminator, which ends with it.
    private mutating func skipString() {
        while let next = byte(0) {
            index += 1
            switch next {
            case 0x07, 0x9c: return
            case 0xc2 where byte(0) == 0x9c:
                index += 1
                return
            case 0x1b:
                if byte(0) == UInt8(ascii: "\\") { index += 1 }
                return
            default: break
            }
        }
    }
}

/// Text from another program as one line that may be shown on a terminal: without control characters and sequences, and
/// without the characters that turn the direction of what follows (U+202A to U+202E, U+2066 to U+2069). Line ends and tabs
/// become spaces.
public func visibleText(_ text: String) -> String {
    let utf8 = Array(text.utf8)
    if utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7f }) { return text }
    // A line end is a control character, yet words on both sides of it stay apart.
    let line = utf8.map { $0 == 0x0a || $0 == 0x0d || $0 == 0x09 ? 0x20 : $0 }
    var sequences = ControlSequences(line[...])
    var kept: [UInt8] = []
    while let (piece, bytes) = sequences.next() { if piece == .text { kept += bytes } }
    var result = String.UnicodeScalarView()
    for scalar in String(decoding: kept, as: UTF8.self).unicodeScalars {
        switch scalar.value {
        case 0x2028, 0x2029: result.append(" ")
        case 0x202a...0x202e, 0x2066...0x2069: break
        default: result.append(scalar)
        }
    }
    return String(result)
}
