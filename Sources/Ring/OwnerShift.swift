/// # Theory of operation
///
/// In a workspace of an ordinary user, root is that user outside, and every other id n is that of the user's range, as
/// ``IDMap`` writes it: 0 is the user, 1 the range's first. Files of the image belong to ids of the machine, so inside
/// no id inside owns them. After the shift, each belongs to the id that its owner has inside.
///
/// What already belongs to the user or to the range stays, so that a shift may be repeated. That is clear because the range
/// begins beyond the ids that are shifted to it; only files that belonged to the user before cannot be told apart. They are
/// root's inside, which is right: the user who starts the workspace is root of it.

/// How the owners of an image's files become those of a workspace of one of its users. Pure.
public struct OwnerShift: Hashable, Sendable {
    /// Why a user and a range make no shift.
    public enum Problem: Error, Hashable, Sendable {
        case isRoot, rangeIsShort, rangeBeginsEarly, rangeHasTheUser, rangeEndsLate
    }

    /// The id that an owner gets.
    public enum Outcome: Hashable, Sendable {
        case shifted(UInt32)
        /// It was shifted before.
        case already
        /// It has no place in the range.
        case beyond
    }

    /// Who root inside is outside.
    private let user: UInt32, group: UInt32
    private let start: UInt32, count: UInt32

    /// A shift for a user with a range of subuid(5) and subgid(5).
    public init(user: UInt32, group: UInt32, start: UInt32, count: UInt32) throws(Problem) {
        if user == 0 || group == 0 { throw .isRoot }
        // As IDMap wants it of a range.
        if count < 1000 { throw .rangeIsShort }
        if start < count { throw .rangeBeginsEarly }
        if UInt64(start) + UInt64(count) > UInt64(UInt32.max) { throw .rangeEndsLate }
        let end = start + count
        if start..<end ~= user || start..<end ~= group { throw .rangeHasTheUser }
        (self.user, self.group, self.start, self.count) = (user, group, start, count)
    }

    /// What a file's owner becomes.
    public func user(_ id: UInt32) -> Outcome { outcome(id, root: user) }
    /// What a file's group becomes.
    public func group(_ id: UInt32) -> Outcome { outcome(id, root: group) }

    private func outcome(_ id: UInt32, root: UInt32) -> Outcome {
        if id == 0 { return .shifted(root) }
        if id == root || start..<(start + count) ~= id { return .already }
        // The last id of the range is the stages' own (IDMap.workspace).
        return id < count ? .shifted(start + id - 1) : .beyond
    }

    /// A file's capabilities as root of the workspace would have set them; nil where they stay as they are.
    ///
    /// KERNEL: struct vfs_cap_data, of version 2 with 20 bytes, of version 3 with four more, the id of the root whose user
    /// namespace honours them. The first four bytes are flags and, as the highest, the version; all are little-endian.
    public func capabilities(_ bytes: [UInt8]) -> [UInt8]? {
        guard bytes.count == 20, bytes[3] == 2 else { return nil }
        var result = bytes
        result[3] = 3
        for shift in stride(from: UInt32(0), to: 32, by: 8) { result.append(UInt8(truncatingIfNeeded: user >> shift)) }
        return result
    }
}
