internal import CKernel
internal import SystemPackage

/// A fixed block of memory outside the heap, of pages that count only once touched; or a shared view of a memory file.
@safe public struct Region: ~Copyable {
    /// The whole block.
    public let bytes: UnsafeMutableRawBufferPointer

    /// Maps `count` bytes that read as zero: of the memory file, emptied and made that large first, or private with nil.
    /// The file is sealed then, so that only this mapping can change it, and nothing its size.
    ///
    /// KERNEL: F_SEAL_FUTURE_WRITE leaves the mappings that exist writable; write(2), new writable mappings and holes
    /// fail with EPERM, also through a descriptor that /proc/PID/fd opened again (fcntl(2), File Sealing).
    public init(count: Int, sharedWith file: Descriptor? = nil) throws(KernelError) {
        var address: UnsafeMutableRawPointer?
        if let file {
            _ = try check(ck_ftruncate(file.number, 0), "empty memory file")
            _ = try check(ck_ftruncate(file.number, UInt64(count)), "size memory file")
        }
        _ = try check(unsafe ck_map(file?.number ?? -1, count, &address), "map memory", "\(count) bytes")
        if let file { _ = try check(ck_seal(file.number), "seal memory file") }
        unsafe bytes = UnsafeMutableRawBufferPointer(start: address, count: count)
    }

    deinit { _ = unsafe ck_unmap(bytes.baseAddress, bytes.count) }

    /// Tells the kernel that these pages may be dropped; they read as zero afterwards.
    public borrowing func discard(_ range: Range<Int>) {
        precondition(unsafe range.lowerBound >= 0 && range.upperBound <= bytes.count)
        _ = unsafe ck_discard(bytes.baseAddress?.advanced(by: range.lowerBound), range.count)
    }

    /// read(2) into the block at `offset`.
    @inline(__always)
    public borrowing func read(_ descriptor: Int32, at offset: Int, count: Int) -> IOOutcome {
        unsafe IOOutcome(ck_read(descriptor, slice(offset, count), count))
    }

    /// write(2) from the block at `offset`.
    @inline(__always)
    public borrowing func write(_ descriptor: Int32, at offset: Int, count: Int) -> IOOutcome {
        unsafe IOOutcome(ck_write(descriptor, slice(offset, count), count))
    }

    /// send(2) without blocking or SIGPIPE.
    @inline(__always)
    public borrowing func send(_ socket: Int32, at offset: Int, count: Int) -> IOOutcome {
        unsafe IOOutcome(ck_send(socket, slice(offset, count), count))
    }

    /// recv(2) without blocking.
    @inline(__always)
    public borrowing func receive(_ socket: Int32, at offset: Int, count: Int) -> IOOutcome {
        unsafe IOOutcome(ck_receive(socket, slice(offset, count), count))
    }

    /// recv(2) with MSG_PEEK, from the socket's peek offset on.
    @inline(__always)
    public borrowing func peek(_ socket: Int32, at offset: Int, count: Int) -> IOOutcome {
        unsafe IOOutcome(ck_peek(socket, slice(offset, count), count))
    }

    /// MSG_PEEK behind the first `skip` bytes of the queue, which go to `scratch`: for kernels without SO_PEEK_OFF.
    public borrowing func peek(
        _ socket: Int32, skipping skip: Int, scratch: borrowing Region, at offset: Int, count: Int
    )
        -> IOOutcome
    {
        unsafe IOOutcome(ck_peek_after(socket, scratch.slice(0, skip), skip, slice(offset, count), count))
    }

    /// sendmsg(2) of one or several datagrams.
    public borrowing func sendDatagram(
        _ socket: Int32, v4: Bool, at offset: Int, count: Int, _ datagram: InternetSocket.Datagram
    ) -> IOOutcome {
        var meta = ck_datagram(
            peer: datagram.peer.raw, segment: UInt16(clamping: datagram.segment), ttl: datagram.timeToLive, tos: 0)
        return unsafe IOOutcome(ck_send_datagram(socket, v4 ? 2 : 10, slice(offset, count), count, &meta))
    }

    /// recvmsg(2) of one or several datagrams.
    public borrowing func receiveDatagram(
        _ socket: Int32, at offset: Int, count: Int, _ datagram: inout InternetSocket.Datagram
    ) -> IOOutcome {
        var meta = ck_datagram()
        let outcome = unsafe IOOutcome(ck_receive_datagram(socket, slice(offset, count), count, &meta))
        datagram = InternetSocket.Datagram(peer: Endpoint(meta.peer), segment: Int(meta.segment), timeToLive: meta.ttl)
        return outcome
    }

    /// Takes one entry of the error queue; the start of the failed datagram's payload goes to the block.
    public borrowing func receiveError(_ socket: Int32, at offset: Int, count: Int)
        -> (error: InternetSocket.DatagramError, length: Int)?
    {
        var raw = ck_datagram_error()
        var length = 0
        guard unsafe ck_receive_error(socket, &raw, slice(offset, count), count, &length) == 1 else { return nil }
        return (
            InternetSocket.DatagramError(
                peer: Endpoint(raw.peer), offender: Endpoint(raw.offender).address,
                errno: Errno(rawValue: CInt(raw.error)), origin: raw.origin, type: raw.type, code: raw.code,
                info: raw.info),
            length
        )
    }

    @inline(__always)
    private borrowing func slice(_ offset: Int, _ count: Int) -> UnsafeMutableRawPointer? {
        precondition(unsafe offset >= 0 && count >= 0 && offset &+ count <= bytes.count)
        return unsafe bytes.baseAddress?.advanced(by: offset)
    }
}

extension Region {
    /// Copies bytes of another block into this one.
    @inline(__always)
    public borrowing func copy(from source: borrowing Region, at offset: Int, count: Int, to destination: Int) {
        guard count > 0, let from = unsafe source.slice(offset, count), let to = unsafe slice(destination, count) else {
            return
        }
        unsafe to.copyMemory(from: from, byteCount: count)
    }
}

extension Region {
    /// Moves bytes within the block; the ranges may overlap.
    public borrowing func move(from offset: Int, count: Int, to destination: Int) {
        guard count > 0, let from = unsafe slice(offset, count), let to = unsafe slice(destination, count) else {
            return
        }
        unsafe to.copyMemory(from: from, byteCount: count)
    }
}
