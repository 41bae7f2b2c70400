/// Reads `500ms`, `30s`, `1m30s`, `2h`; nil for anything else.
public func parseDuration(_ text: String) -> Duration? {
    var total = Duration.zero
    var rest = text[...]
    guard !rest.isEmpty else { return nil }
    while !rest.isEmpty {
        let digits = rest.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        rest = rest.dropFirst(digits.count)
        let unit = rest.prefix { $0.isASCII && $0.isLetter }
        rest = rest.dropFirst(unit.count)
        guard let value = Double(digits), value <= 1e9 else { return nil }
        switch unit {
        case "us": total += .microseconds(value)
        case "ms": total += .milliseconds(value)
        case "s": total += .seconds(value)
        case "m": total += .seconds(value * 60)
        case "h": total += .seconds(value * 3600)
        default: return nil
        }
    }
    return total
}

/// `022`: up to four octal digits, at most 0777; nil for anything else.
public func parseMask(_ text: String) -> UInt32? {
    guard (1...4).contains(text.utf8.count), text.utf8.allSatisfy({ (48...55).contains($0) }),
        let mask = UInt32(text, radix: 8), mask <= 0o777
    else { return nil }
    return mask
}

/// Reads `2`, `1.5`, `0.25`: processors, in thousandths, of which there are 10 at least; nil for anything else.
public func parseProcessors(_ text: String) -> Int? {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count <= 2, let whole = decimal(parts[0]), whole <= 8192 else { return nil }
    var thousandths = whole * 1000
    if parts.count == 2 {
        guard (1...3).contains(parts[1].utf8.count), let fraction = decimal(parts[1]) else { return nil }
        thousandths += fraction * [100, 10, 1][parts[1].utf8.count - 1]
    }
    return (10...8_192_000).contains(thousandths) ? thousandths : nil
}

/// Reads `4096`, `512k`, `4m`, `1g` (also `kb`, `mb`, `gb`, `b`): bytes, by powers of 1024 as Compose means them. nil for
/// anything else.
public func parseSize(_ text: String) -> UInt64? {
    let digits = text.prefix { $0.isASCII && $0.isNumber }
    guard let number = decimal(digits) else { return nil }
    let shift: Int
    switch text.dropFirst(digits.count).lowercased() {
    case "", "b": shift = 0
    case "k", "kb": shift = 10
    case "m", "mb": shift = 20
    case "g", "gb": shift = 30
    default: return nil
    }
    let (size, overflow) = UInt64(number).multipliedReportingOverflow(by: 1 << UInt64(shift))
    return overflow ? nil : size
}

/// Splits a command as Compose does: at blanks, with single and double quotes and backslashes; no expansion.
/// nil when a quote is not closed.
public func splitWords(_ text: String) -> [String]? {
    var words: [String] = []
    var word: String?
    var quote: Character?
    var escaped = false
    for character in text {
        if escaped {
            if quote == "\"", character != "\"", character != "\\" { word = (word ?? "") + "\\" }
            word = (word ?? "") + String(character)
            escaped = false
        } else if let open = quote {
            if character == open {
                quote = nil
            } else if character == "\\", open == "\"" {
                escaped = true
            } else {
                word = (word ?? "") + String(character)
            }
        } else if character == "'" || character == "\"" {
            quote = character
            word = word ?? ""
        } else if character == "\\" {
            escaped = true
        } else if character == " " || character == "\t" || character == "\n" || character == "\r\n" {
            if let done = word { words.append(done) }
            word = nil
        } else {
            word = (word ?? "") + String(character)
        }
    }
    guard quote == nil, !escaped else { return nil }
    if let done = word { words.append(done) }
    return words
}
