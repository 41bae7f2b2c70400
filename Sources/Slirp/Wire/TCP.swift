/// A position in a TCP stream, modulo 2^32 (RFC 9293, 3.4).
struct SequenceNumber: Hashable, Sendable {
    var value: UInt32

    @inline(__always) init(_ value: UInt32) { self.value = value }
    @inline(__always) static func + (a: Self, n: Int) -> Self { Self(a.value &+ UInt32(truncatingIfNeeded: n)) }
    @inline(__always) static func += (a: inout Self, n: Int) { a = a + n }
    /// How far `a` is ahead of `b`; negative when behind.
    @inline(__always) static func - (a: Self, b: Self) -> Int { Int(Int32(bitPattern: a.value &- b.value)) }
    @inline(__always) static func < (a: Self, b: Self) -> Bool { a - b < 0 }
    @inline(__always) static func <= (a: Self, b: Self) -> Bool { a - b <= 0 }
    @inline(__always) static func > (a: Self, b: Self) -> Bool { a - b > 0 }
    @inline(__always) static func >= (a: Self, b: Self) -> Bool { a - b >= 0 }
}

/// The control bits of a segment.
struct TCPFlags: OptionSet, Hashable, Sendable {
    let rawValue: UInt8
    static let fin = TCPFlags(rawValue: 1)
    static let syn = TCPFlags(rawValue: 2)
    static let rst = TCPFlags(rawValue: 4)
    static let psh = TCPFlags(rawValue: 8)
    static let ack = TCPFlags(rawValue: 16)
}

/// A selectively acknowledged range (RFC 2018). Plain data.
struct SACKBlock: Hashable, Sendable {
    var left: SequenceNumber, right: SequenceNumber
}

/// Up to four SACK blocks. Plain data.
struct SACKBlocks: Hashable, Sendable {
    private(set) var count: UInt8 = 0
    private var a = SACKBlock(left: SequenceNumber(0), right: SequenceNumber(0))
    private var b = SACKBlock(left: SequenceNumber(0), right: SequenceNumber(0))
    private var c = SACKBlock(left: SequenceNumber(0), right: SequenceNumber(0))
    private var d = SACKBlock(left: SequenceNumber(0), right: SequenceNumber(0))

    init() {}

    subscript(index: Int) -> SACKBlock {
        switch index {
        case 0: a
        case 1: b
        case 2: c
        default: d
        }
    }

    /// Adds a block; a fifth is dropped.
    mutating func append(_ block: SACKBlock) {
        switch count {
        case 0: a = block
        case 1: b = block
        case 2: c = block
        case 3: d = block
        default: return
        }
        count += 1
    }
}

/// The timestamps option (RFC 7323, 3). Plain data.
struct TCPTimestamps: Hashable, Sendable {
    static let length = 12  // with the two bytes that align it
    var value: UInt32, echo: UInt32

    /// Whether `a` is older than `b`, modulo 2^32.
    @inline(__always) static func isOlder(_ a: UInt32, than b: UInt32) -> Bool { Int32(bitPattern: a &- b) < 0 }

    /// Writes the option behind two bytes that align it.
    @inline(__always) func emit(into out: inout MutableRawSpan, at offset: Int, after padding: UInt32) {
        out.put32(padding << 16 | 0x080a, offset)
        out.put32(value, offset + 4)
        out.put32(echo, offset + 8)
    }
}

/// A segment's header and the options we understand.
struct TCPHeader: Hashable, Sendable {
    var sourcePort: UInt16, destinationPort: UInt16
    var sequence: SequenceNumber, acknowledgement: SequenceNumber
    var flags: TCPFlags
    /// As on the wire, unscaled.
    var window: UInt16
    var headerLength = 20
    /// Options of a SYN.
    var maximumSegment: UInt16?
    var windowScale: UInt8?
    var sackPermitted = false
    var sack = SACKBlocks()
    var timestamps: TCPTimestamps?

    init(
        sourcePort: UInt16, destinationPort: UInt16, sequence: SequenceNumber, acknowledgement: SequenceNumber,
        flags: TCPFlags, window: UInt16
    ) {
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        self.sequence = sequence
        self.acknowledgement = acknowledgement
        self.flags = flags
        self.window = window
    }

    /// Reads the header at the start of `bytes`, which end with the segment (RFC 9293, 3.1).
    @inline(__always)
    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= 20 else { throw .truncated }
        sourcePort = bytes.u16(0)
        destinationPort = bytes.u16(2)
        sequence = SequenceNumber(bytes.u32(4))
        acknowledgement = SequenceNumber(bytes.u32(8))
        headerLength = Int(bytes.u8(12) >> 4) * 4
        flags = TCPFlags(rawValue: bytes.u8(13) & 0x3f)
        window = bytes.u16(14)
        guard headerLength >= 20 else { throw .malformed }
        guard bytes.byteCount >= headerLength else { throw .truncated }
        // As nearly every segment of an established connection has it (RFC 7323, appendix A).
        if headerLength == 32, bytes.u32(20) == 0x0101_080a {
            timestamps = TCPTimestamps(value: bytes.u32(24), echo: bytes.u32(28))
        } else if headerLength > 20 {
            parseOptions(bytes)
        }
    }

    /// Options that do not fit are ignored from there on, as Linux does.
    private mutating func parseOptions(_ bytes: RawSpan) {
        var at = 20
        while at < headerLength {
            let kind = bytes.u8(at)
            if kind == 0 { return }
            if kind == 1 {
                at += 1
                continue
            }
            guard headerLength - at >= 2 else { return }
            let length = Int(bytes.u8(at + 1))
            guard length >= 2, headerLength - at >= length else { return }
            switch (kind, length) {
            case (2, 4): maximumSegment = bytes.u16(at + 2)
            case (3, 3): windowScale = min(bytes.u8(at + 2), 14)
            case (4, 2): sackPermitted = true
            case (8, 10): timestamps = TCPTimestamps(value: bytes.u32(at + 2), echo: bytes.u32(at + 6))
            case (5, _):
                var block = at + 2
                while block + 8 <= at + length {
                    sack.append(
                        SACKBlock(
                            left: SequenceNumber(bytes.u32(block)), right: SequenceNumber(bytes.u32(block + 4))))
                    block += 8
                }
            default: break
            }
            at += length
        }
    }

    /// Length of the header ``emit(into:at:)`` writes.
    @inline(__always)
    var emittedLength: Int {
        let base = timestamps == nil ? 20 : 20 + TCPTimestamps.length
        if flags.contains(.syn) {
            // With timestamps SACK-permitted takes the place of their padding.
            return base + 4 + (windowScale != nil ? 4 : 0) + (sackPermitted && timestamps == nil ? 4 : 0)
        }
        return sack.count == 0 ? base : base + 4 + 8 * Int(sack.count)
    }

    /// Writes header and options; the checksum field gets `checksum`.
    @inline(__always)
    func emit(into out: inout MutableRawSpan, at offset: Int, checksum: UInt16) {
        let length = emittedLength
        out.put16(sourcePort, offset)
        out.put16(destinationPort, offset + 2)
        out.put32(sequence.value, offset + 4)
        out.put32(acknowledgement.value, offset + 8)
        out.put8(UInt8(truncatingIfNeeded: length / 4) << 4, offset + 12)
        out.put8(flags.rawValue, offset + 13)
        out.put16(window, offset + 14)
        out.put16(checksum, offset + 16)
        out.put16(0, offset + 18)
        if length > 20 { emitOptions(into: &out, at: offset + 20) }
    }

    /// The order is Linux's, so that a peer cannot tell this stack from the kernel by it.
    private func emitSynOptions(into out: inout MutableRawSpan, at offset: Int) {
        out.put32(0x0204_0000 | UInt32(maximumSegment ?? 536), offset)
        var at = offset + 4
        if let timestamps {
            timestamps.emit(into: &out, at: at, after: sackPermitted ? 0x0402 : 0x0101)
            at += TCPTimestamps.length
        } else if sackPermitted {
            out.put32(0x0101_0402, at)
            at += 4
        }
        if let windowScale { out.put32(0x0103_0300 | UInt32(windowScale), at) }
    }

    private func emitOptions(into out: inout MutableRawSpan, at offset: Int) {
        if flags.contains(.syn) { return emitSynOptions(into: &out, at: offset) }
        var at = offset
        if let timestamps {
            timestamps.emit(into: &out, at: at, after: 0x0101)
            at += TCPTimestamps.length
        }
        if sack.count == 0 { return }
        out.put32(0x0101_0500 | UInt32(2 + 8 * sack.count), at)
        for index in 0..<Int(sack.count) {
            out.put32(sack[index].left.value, at + 4 + 8 * index)
            out.put32(sack[index].right.value, at + 8 + 8 * index)
        }
    }
}
