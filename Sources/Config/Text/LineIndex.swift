/// A file's text by lines, as libyaml counts them: at LF, CR LF, CR, NEL, LS and PS. Made when something is to be shown.
struct LineIndex {
    private let bytes: [UInt8]
    /// Where each line begins.
    private let starts: [Int]

    /// - Parameter raw: UTF-8, or UTF-16 behind its byte order mark, as libyaml takes both.
    init(_ raw: [UInt8]) {
        let bytes = Self.utf8(raw)
        var starts = [0]
        var index = 0
        while index < bytes.count {
            let length = Self.lineEnd(bytes, index)
            index += max(length, 1)
            if length > 0 { starts.append(index) }
        }
        self.bytes = bytes
        self.starts = starts
    }

    /// How many there are; at least one.
    var count: Int { starts.count }

    /// How many characters the last line has.
    var lastLength: Int { bytes[(starts.last ?? 0)...].reduce(0) { $0 + ($1 & 0xc0 == 0x80 ? 0 : 1) } }

    /// The length of the line end at a place; 0 where there is none.
    private static func lineEnd(_ bytes: [UInt8], _ index: Int) -> Int {
        func next(_ distance: Int) -> UInt8? { index + distance < bytes.count ? bytes[index + distance] : nil }
        switch bytes[index] {
        case 10: return 1
        case 13: return next(1) == 10 ? 2 : 1
        case 0xc2: return next(1) == 0x85 ? 2 : 0
        case 0xe2: return next(1) == 0x80 && (next(2) == 0xa8 || next(2) == 0xa9) ? 3 : 0
        default: return 0
        }
    }

    private static func utf8(_ raw: [UInt8]) -> [UInt8] {
        let isLittle = raw.starts(with: [0xff, 0xfe])
        guard isLittle || raw.starts(with: [0xfe, 0xff]) else {
            return raw.starts(with: [0xef, 0xbb, 0xbf]) ? Array(raw.dropFirst(3)) : raw
        }
        let units = stride(from: 2, to: raw.count - 1, by: 2).map { index in
            let (low, high) = isLittle ? (raw[index], raw[index + 1]) : (raw[index + 1], raw[index])
            return UInt16(high) << 8 | UInt16(low)
        }
        return Array(String(decoding: units, as: UTF16.self).utf8)
    }

    /// The characters of a line without its end, at most 1,000; none where there is no such line.
    func characters(line: Int) -> [Unicode.Scalar] {
        guard starts.indices.contains(line - 1) else { return [] }
        let end = line < starts.count ? starts[line] : bytes.count
        let part = String(decoding: bytes[starts[line - 1]..<min(end, starts[line - 1] + 4000)], as: UTF8.self)
        return part.unicodeScalars.prefix { !Self.breaks.contains($0) }.prefix(1000).map(\.self)
    }

    private static let breaks: [Unicode.Scalar] = ["\n", "\r", "\u{85}", "\u{2028}", "\u{2029}"]

    /// A part of a line, for people: at most 200 characters, so that the one at `column` is among them; and how many
    /// characters stand before the part. nil for a line that is not there or blank.
    func excerpt(line: Int, column: Int) -> (text: [Unicode.Scalar], before: Int)? {
        guard starts.indices.contains(line - 1) else { return nil }
        let end = line < starts.count ? starts[line] : bytes.count
        let from = column - 1 > 160 ? column - 101 : 0
        // Continuation bytes are no characters of their own.
        var index = starts[line - 1]
        var passed = 0
        while index < end, passed < from {
            index += 1
            while index < end, bytes[index] & 0xc0 == 0x80 { index += 1 }
            passed += 1
        }
        let part = String(decoding: bytes[index..<min(end, index + 1000)], as: UTF8.self)
        // Control characters, tabs among them, as one blank, so that the caret stays under its place.
        let text = part.unicodeScalars.prefix { !Self.breaks.contains($0) }.prefix(200).map {
            scalar -> Unicode.Scalar in
            switch scalar.value {
            case 0..<0x20, 0x7f...0x9f, 0x202a...0x202e, 0x2066...0x2069: " "
            default: scalar
            }
        }
        return text.allSatisfy { $0 == " " } ? nil : (text, from)
    }
}
