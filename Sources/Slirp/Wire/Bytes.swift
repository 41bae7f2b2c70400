/// Why bytes are no packet of the expected kind.
enum PacketError: Error, Hashable, Sendable {
    /// Fewer bytes than the header says or needs.
    case truncated
    /// A version, type or length field that does not fit.
    case malformed
    /// The checksum does not match.
    case badChecksum
}

extension RawSpan {
    /// The byte at `offset`; the caller has checked the bounds.
    @inline(__always)
    func u8(_ offset: Int) -> UInt8 { unsafe unsafeLoad(fromByteOffset: offset, as: UInt8.self) }

    /// The big-endian 16 bits at `offset`.
    @inline(__always)
    func u16(_ offset: Int) -> UInt16 {
        UInt16(bigEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }

    /// The big-endian 32 bits at `offset`.
    @inline(__always)
    func u32(_ offset: Int) -> UInt32 {
        UInt32(bigEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }

    /// The big-endian 64 bits at `offset`.
    @inline(__always)
    func u64(_ offset: Int) -> UInt64 {
        UInt64(bigEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }

    /// The bytes of a range as an array, for cold paths.
    func array(_ range: Range<Int>) -> [UInt8] { range.map { u8($0) } }
}

extension MutableRawSpan {
    @inline(__always)
    mutating func put8(_ value: UInt8, _ offset: Int) { storeBytes(of: value, toByteOffset: offset, as: UInt8.self) }

    @inline(__always)
    mutating func put16(_ value: UInt16, _ offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }

    @inline(__always)
    mutating func put32(_ value: UInt32, _ offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }

    @inline(__always)
    mutating func put64(_ value: UInt64, _ offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt64.self)
    }

    /// Copies bytes, for cold paths.
    mutating func put(_ bytes: some Collection<UInt8>, _ offset: Int) {
        var at = offset
        for byte in bytes {
            put8(byte, at)
            at += 1
        }
    }
}

/// The Internet checksum (RFC 1071), as a running sum of 16-bit words.
struct Checksum {
    private var sum: UInt64 = 0

    /// Adds a word.
    @inline(__always)
    mutating func add(_ word: UInt16) { sum &+= UInt64(word) }

    /// Adds an address's bytes.
    @inline(__always)
    mutating func add(_ value: UInt64) {
        sum &+= value >> 48
        sum &+= value >> 32 & 0xffff
        sum &+= value >> 16 & 0xffff
        sum &+= value & 0xffff
    }

    /// Adds a range of bytes that starts at an even offset of the summed data; an odd last byte is padded with zero.
    mutating func add(_ bytes: RawSpan, _ range: Range<Int>) {
        var offset = range.lowerBound
        while offset &+ 4 <= range.upperBound {
            let word = bytes.u32(offset)
            sum &+= UInt64(word >> 16) &+ UInt64(word & 0xffff)
            offset &+= 4
        }
        if offset &+ 2 <= range.upperBound {
            add(bytes.u16(offset))
            offset &+= 2
        }
        if offset < range.upperBound { sum &+= UInt64(bytes.u8(offset)) << 8 }
    }

    /// The sum folded to 16 bits, not complemented: what a partial checksum field holds.
    @inline(__always)
    var folded: UInt16 {
        var s = sum
        while s > 0xffff { s = (s >> 16) &+ (s & 0xffff) }
        return UInt16(truncatingIfNeeded: s)
    }

    /// The checksum: complemented.
    @inline(__always)
    var value: UInt16 { ~folded }
}
