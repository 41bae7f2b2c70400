public import SystemPackage

/// Bytes on their way to a reader that may be slow. A piece is appended whole or not at all, so that the buffer never grows
/// past its bound; it leaves as far as the reader takes it. Pure: the caller writes.
public struct OutputBuffer {
    /// The most bytes it holds.
    public let limit: Int
    private var bytes: [UInt8] = []
    private var start = 0
    /// Bytes that are gone are moved out of the way once they are this many.
    private static let compactionThreshold = 65536

    /// An empty buffer of at most `limit` bytes.
    public init(limit: Int) { self.limit = limit }

    /// The number of bytes that wait.
    public var count: Int { bytes.count - start }

    /// Whether nothing waits.
    public var isEmpty: Bool { start == bytes.count }

    /// Appends the parts, one after the other, as one piece; false when they do not fit: then nothing is appended.
    @inline(__always)
    public mutating func append(
        _ first: ArraySlice<UInt8>, _ second: ArraySlice<UInt8> = [], _ third: ArraySlice<UInt8> = []
    ) -> Bool {
        guard count + first.count + second.count + third.count <= limit else { return false }
        bytes += first
        bytes += second
        bytes += third
        return true
    }

    /// Hands the first bytes to `write` (the array, an offset, a length) until none is left or it takes no more. A piece is at
    /// most `piece` bytes, and ends with a line where one ends in it. Returns why it stopped.
    public mutating func flush(
        piece: Int, _ write: (_ bytes: [UInt8], _ from: Int, _ count: Int) -> IOOutcome
    ) -> FlushOutcome {
        defer { compact() }
        while !isEmpty {
            let length = pieceLength(piece)
            switch write(bytes, start, length) {
            case .bytes(let taken) where taken > 0: start += min(taken, length)
            case .bytes, .wouldBlock: return .blocked
            case .failed(let errno): return .failed(errno)
            }
        }
        return .empty
    }

    /// Drops everything that waits.
    public mutating func removeAll() {
        bytes = []
        start = 0
    }

    private func pieceLength(_ piece: Int) -> Int {
        if count <= piece { return count }
        let end = bytes[start..<(start + piece)].lastIndex(of: 10)
        return end.map { $0 - start + 1 } ?? piece
    }

    private mutating func compact() {
        if start == bytes.count {
            // What a burst took is given back.
            if bytes.capacity > Self.compactionThreshold { bytes = [] } else { bytes.removeAll(keepingCapacity: true) }
            start = 0
        } else if start >= Self.compactionThreshold {
            bytes.removeFirst(start)
            start = 0
        }
    }
}

/// The reason why ``OutputBuffer/flush(piece:_:)`` stopped.
public enum FlushOutcome: Equatable, Sendable {
    /// Nothing waits any more.
    case empty
    /// The reader takes no more for now.
    case blocked
    /// The reader is gone, or the file cannot be written.
    case failed(Errno)
}
