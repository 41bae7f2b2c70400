/// Bytes that come in pieces and are taken out by lines. Pure.
public struct LineBuffer {
    private var bytes: [UInt8] = []
    private var start = 0
    /// Where the search for the end of the first line goes on.
    private var scanned = 0

    /// An empty buffer.
    public init() {}

    /// The number of bytes in it.
    public var count: Int { bytes.count - start }

    /// Whether a whole line is there.
    public var hasLine: Bool { bytes[scanned...].contains(10) }

    /// Adds what has come.
    public mutating func append(_ more: ArraySlice<UInt8>) {
        if start > 0, start >= bytes.count / 2 {
            bytes.removeFirst(start)
            scanned -= start
            start = 0
        }
        bytes += more
    }

    /// Takes out the first line, without its end; nil while its end has not come.
    public mutating func next() -> [UInt8]? {
        guard let end = bytes[scanned...].firstIndex(of: 10) else {
            scanned = bytes.count
            return nil
        }
        let line = Array(bytes[start..<end])
        start = end + 1
        scanned = start
        if start == bytes.count { self = LineBuffer() }
        return line
    }

    /// Takes out everything.
    public mutating func removeAll() -> [UInt8] {
        defer { self = LineBuffer() }
        return Array(bytes[start...])
    }
}
