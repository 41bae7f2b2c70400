/// Control sequences of terminals (ECMA-48): colours, movements, titles.
enum EscapeSequences {
    /// A line without them.
    static func removed(from line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        guard line.contains(27) else { return line }
        var kept: [UInt8] = []
        kept.reserveCapacity(line.count)
        var rest = line
        while let byte = rest.popFirst() {
            if byte == 27 { skip(&rest) } else { kept.append(byte) }
        }
        return kept[...]
    }

    /// Takes away what follows an escape and belongs to it.
    private static func skip(_ rest: inout ArraySlice<UInt8>) {
        guard let kind = rest.popFirst() else { return }
        switch kind {
        case UInt8(ascii: "["):
            // Parameters and intermediates, then one final byte.
            while let byte = rest.first, (0x20...0x3f).contains(byte) { rest.removeFirst() }
            if let final = rest.first, (0x40...0x7e).contains(final) { rest.removeFirst() }
        case UInt8(ascii: "]"), UInt8(ascii: "P"), UInt8(ascii: "X"), UInt8(ascii: "^"), UInt8(ascii: "_"):
            // A string, up to a bell or ESC \.
            while let byte = rest.popFirst() {
                if byte == 7 { return }
                if byte == 27 {
                    if rest.first == UInt8(ascii: "\\") { rest.removeFirst() }
                    return
                }
            }
        case 0x20...0x2f:
            while let byte = rest.popFirst(), (0x20...0x2f).contains(byte) {}
        default: break
        }
    }
}
