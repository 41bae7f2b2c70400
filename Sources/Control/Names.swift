/// Names that come from outside, where they become keys, labels or slots: at most 255 bytes, and different ones for different
/// texts.
public enum BoundedName {
    /// How many bytes a name has at most.
    public static let limit = 255

    /// The text itself where it is short enough; else its beginning, `~` and a checksum of it all.
    public static func of(_ text: String) -> String {
        if text.utf8.count <= limit { return text }
        return prefix(text, bytes: limit - 17) + "~" + FileNames.hash(text)
    }

    /// The beginning of a text, in whole characters (scalars) and at most so many bytes.
    public static func prefix(_ text: String, bytes: Int) -> String {
        if text.utf8.count <= bytes { return text }
        var result = String.UnicodeScalarView()
        var count = 0
        for scalar in text.unicodeScalars {
            count += UTF8.width(scalar)
            if count > bytes { break }
            result.append(scalar)
        }
        return String(result)
    }
}

/// Names that come from outside as names of files: letters, digits, `-`, `_`, `.` and spaces stay as they are, the bytes of all
/// else are `%XX`. Different names have different files; long ones end with `~` and a checksum.
public enum FileNames {
    /// How many bytes an encoded name has at most: room for `.log.99.times` is left of the 255 that file systems allow.
    private static let limit = 200

    /// The name of a file for a name.
    public static func encode(_ name: String) -> String {
        let name = BoundedName.of(name)
        if name.isEmpty { return "%" }
        var pieces: [String] = []
        for (index, scalar) in name.unicodeScalars.enumerated() {
            let ordinary =
                scalar.properties.isAlphabetic || scalar.properties.numericType != nil
                || "-_ ".unicodeScalars.contains(scalar)
                || (scalar == "." && index > 0)
            pieces.append(
                ordinary ? String(scalar) : UTF8.encode(scalar).map { $0.map(percent).joined() } ?? "")
        }
        let text = pieces.joined()
        if text.utf8.count <= limit { return text }
        var count = 0
        let kept = pieces.prefix {
            count += $0.utf8.count
            return count <= limit - 17
        }
        return kept.joined() + "~" + hash(name)
    }

    /// The name that ``encode(_:)`` made a file's name of; nil where the file's name has only a part of it.
    public static func decode(_ file: String) -> String? {
        if file == "%" { return "" }
        if file.utf8.contains(UInt8(ascii: "~")) { return nil }
        var bytes: [UInt8] = []
        var rest = Array(file.utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else {
                return file
            }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A checksum of a text (FNV-1a, 64 bits), as 16 digits.
    public static func hash(_ text: String) -> String {
        let sum = text.utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
        let digits = String(sum, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    private static func percent(_ byte: UInt8) -> String {
        let digits = String(byte, radix: 16, uppercase: true)
        return "%" + (digits.count == 1 ? "0" : "") + digits
    }
}
