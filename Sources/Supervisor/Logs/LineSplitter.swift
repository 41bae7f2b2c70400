/// Cuts a stream of bytes into lines, each at most 8 KiB; binary-safe. Pure.
struct LineSplitter {
    static let limit = 8192
    private var partial: [UInt8] = []

    /// Feeds bytes; `body` gets each whole line without its newline.
    mutating func feed(_ bytes: ArraySlice<UInt8>, _ body: (ArraySlice<UInt8>) -> Void) {
        var rest = bytes
        while let end = rest.firstIndex(of: 10) {
            emit(rest[..<end], body)
            rest = rest[(end + 1)...]
        }
        partial += rest
        while partial.count > Self.limit {
            body(partial[..<Self.limit])
            partial.removeFirst(Self.limit)
        }
    }

    /// The end of the stream: what has no newline is a line too.
    mutating func finish(_ body: (ArraySlice<UInt8>) -> Void) {
        if !partial.isEmpty { emit([], body) }
    }

    private mutating func emit(_ line: ArraySlice<UInt8>, _ body: (ArraySlice<UInt8>) -> Void) {
        if partial.isEmpty, line.count <= Self.limit { return body(line.last == 13 ? line.dropLast() : line) }
        partial += line
        if partial.last == 13 { partial.removeLast() }
        var rest = partial[...]
        repeat {
            body(rest.prefix(Self.limit))
            rest = rest.dropFirst(Self.limit)
        } while !rest.isEmpty
        partial = []
    }
}
