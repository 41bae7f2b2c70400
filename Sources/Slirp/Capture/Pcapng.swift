/// Blocks of a capture file (pcapng, draft-ietf-opsawg-pcapng), little-endian. Pure.
package enum Pcapng {
    private static func u16(_ value: UInt16) -> [UInt8] { [UInt8(truncatingIfNeeded: value), UInt8(value >> 8)] }
    private static func u32(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(8 * $0)) }
    }
    private static func u64(_ value: UInt64) -> [UInt8] {
        u32(UInt32(truncatingIfNeeded: value)) + u32(UInt32(truncatingIfNeeded: value >> 32))
    }
    private static func padding(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: (4 - count % 4) % 4) }
    private static func block(_ type: UInt32, _ body: [UInt8]) -> [UInt8] {
        let length = u32(UInt32(body.count + 12))
        return u32(type) + length + body + length
    }
    private static func option(_ code: UInt16, _ value: [UInt8]) -> [UInt8] {
        u16(code) + u16(UInt16(value.count)) + value + padding(value.count)
    }
    private static let noMoreOptions: [UInt8] = [0, 0, 0, 0]

    /// How a file begins: a section with one Ethernet interface, whose times are nanoseconds.
    package static func header(interface name: String) -> [UInt8] {
        let program = option(4, Array("workspacekit".utf8))
        let section = block(
            0x0a0d_0d0a, u32(0x1a2b_3c4d) + u16(1) + u16(0) + u64(.max) + program + noMoreOptions)
        let options = option(2, Array(name.utf8)) + option(9, [9]) + noMoreOptions
        return section + block(1, u16(1) + u16(0) + u32(0) + options)
    }

    /// A frame, of which `bytes` were kept.
    package static func packet(_ bytes: ArraySlice<UInt8>, length: Int, time: UInt64, isOutgoing: Bool) -> [UInt8] {
        let head =
            u32(0) + u32(UInt32(truncatingIfNeeded: time >> 32)) + u32(UInt32(truncatingIfNeeded: time))
            + u32(UInt32(bytes.count)) + u32(UInt32(length))
        let flags = option(2, u32(isOutgoing ? 2 : 1))
        return block(6, head + bytes + padding(bytes.count) + flags + noMoreOptions)
    }

    /// How many frames came, and how many of them were lost, at the end.
    package static func statistics(frames: Int, dropped: Int, time: UInt64) -> [UInt8] {
        let head =
            u32(0) + u32(UInt32(truncatingIfNeeded: time >> 32)) + u32(UInt32(truncatingIfNeeded: time))
        return block(5, head + option(4, u64(UInt64(frames))) + option(5, u64(UInt64(dropped))) + noMoreOptions)
    }
}
