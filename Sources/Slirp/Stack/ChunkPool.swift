internal import Kernel

/// Memory for the two exceptions to "payload lives in the kernel": bytes that the outside socket did not take, and
/// segments that came out of order. One pool for all flows, of chunks that hold a superpacket each, bounded; a chunk's
/// pages go back to the kernel when the pool falls idle.
struct ChunkPool: ~Copyable {
    static let chunkSize = 65536

    /// A chunk's place in a list and the part of it that is in use.
    struct Chunk {
        /// The next chunk, + 1.
        var next: UInt32 = 0
        var start: UInt32 = 0
        var count: UInt32 = 0
        /// Where its first byte belongs, for out-of-order chunks.
        var sequence = SequenceNumber(0)
    }

    let memory: Region
    private var chunks: [Chunk]
    private var firstFree: UInt32 = 0
    private var touched = 0
    private(set) var used = 0

    init(chunks count: Int) throws(KernelError) {
        memory = try Region(count: count * Self.chunkSize)
        chunks = [Chunk](repeating: Chunk(), count: count)
    }

    subscript(index: UInt32) -> Chunk {
        @inline(__always) _read { yield chunks[Int(index - 1)] }
        @inline(__always) _modify { yield &chunks[Int(index - 1)] }
    }

    /// Where a chunk's bytes lie in ``memory``.
    @inline(__always)
    func offset(_ index: UInt32) -> Int { Int(index - 1) * Self.chunkSize }

    /// An empty chunk, + 1; nil when all are in use.
    mutating func allocate() -> UInt32? {
        let index: UInt32
        if firstFree != 0 {
            index = firstFree
            firstFree = self[index].next
        } else {
            guard touched < chunks.count else { return nil }
            touched += 1
            index = UInt32(touched)
        }
        self[index] = Chunk()
        used += 1
        return index
    }

    /// Gives a chunk back.
    mutating func free(_ index: UInt32) {
        self[index].next = firstFree
        firstFree = index
        used -= 1
        if used == 0, touched > 8 {
            memory.discard(0..<touched * Self.chunkSize)
            touched = 0
            firstFree = 0
        }
    }

    /// Copies bytes of `source` behind those of a chunk; returns how many fitted.
    mutating func append(_ index: UInt32, from source: borrowing Region, at offset: Int, count: Int) -> Int {
        let end = Int(self[index].start + self[index].count)
        let fitting = min(count, Self.chunkSize - end)
        guard fitting > 0 else { return 0 }
        memory.copy(from: source, at: offset, count: fitting, to: self.offset(index) + end)
        self[index].count += UInt32(fitting)
        return fitting
    }
}
