internal import CKernel
internal import SystemPackage

/// A file descriptor with exactly one owner, closed when the owner goes.
public struct OwnedDescriptor: ~Copyable {
    /// The number, for calls that borrow it.
    public let number: Int32

    /// Takes over an open descriptor.
    public init(owning number: Int32) { self.number = number }

    deinit { _ = ck_close(number) }

    /// Gives the descriptor up without closing it.
    public consuming func release() -> Int32 {
        let number = self.number
        discard self
        return number
    }

    /// Another descriptor for the same open file, closed on exec.
    public borrowing func duplicate() throws(KernelError) -> OwnedDescriptor {
        OwnedDescriptor(owning: try check(ck_dup(number), "duplicate descriptor"))
    }

    /// Sets or clears O_NONBLOCK (fcntl(2)).
    public borrowing func setNonblocking(_ on: Bool) throws(KernelError) {
        _ = try check(ck_set_nonblocking(number, on ? 1 : 0), "set non-blocking mode")
    }

    /// Reads what is there, up to the buffer's size.
    public borrowing func read(into buffer: inout [UInt8]) -> IOOutcome { Kernel.read(number, into: &buffer) }

    /// Writes what the descriptor takes of `bytes[from...]`.
    public borrowing func write(_ bytes: [UInt8], from: Int = 0) -> IOOutcome {
        Kernel.write(number, bytes, from: from)
    }
}

/// A shared handle of an ``OwnedDescriptor``, for collections, which cannot hold noncopyable values.
public final class Descriptor {
    /// The number, for calls that borrow it.
    public let number: Int32

    /// Takes over an owned descriptor; it is closed with the last reference.
    public init(_ owned: consuming OwnedDescriptor) { number = owned.release() }

    deinit { _ = ck_close(number) }

    /// The number of another descriptor for the same open file, which is the caller's to close.
    public func duplicate() throws(KernelError) -> Int32 { try check(ck_dup(number), "duplicate descriptor") }

    /// Sets or clears O_NONBLOCK (fcntl(2)).
    public func setNonblocking(_ on: Bool) throws(KernelError) {
        _ = try check(ck_set_nonblocking(number, on ? 1 : 0), "set non-blocking mode")
    }
}

/// Reads from a descriptor borrowed by number.
public func read(_ descriptor: Int32, into buffer: inout [UInt8]) -> IOOutcome {
    unsafe buffer.withUnsafeMutableBytes { unsafe IOOutcome(ck_read(descriptor, $0.baseAddress, $0.count)) }
}

/// Writes `bytes[from...]` to a descriptor borrowed by number.
public func write(_ descriptor: Int32, _ bytes: [UInt8], from: Int = 0) -> IOOutcome {
    unsafe bytes.withUnsafeBytes {
        unsafe IOOutcome(ck_write(descriptor, $0.baseAddress?.advanced(by: from), $0.count - from))
    }
}

/// Writes `bytes[from..<from + count]` to a descriptor borrowed by number.
public func write(_ descriptor: Int32, _ bytes: [UInt8], from: Int, count: Int) -> IOOutcome {
    precondition(from >= 0 && count >= 0 && from + count <= bytes.count)
    return unsafe bytes.withUnsafeBytes {
        unsafe IOOutcome(ck_write(descriptor, $0.baseAddress?.advanced(by: from), count))
    }
}

/// Writes as ``write(_:_:from:count:)`` does, for a terminal that blocks: only when it polls writable, and a timer interrupts
/// the call when it blocks all the same.
func writeBriefly(_ descriptor: Int32, _ bytes: [UInt8], from: Int, count: Int) -> IOOutcome {
    precondition(from >= 0 && count >= 0 && from + count <= bytes.count)
    return unsafe bytes.withUnsafeBytes {
        unsafe IOOutcome(ck_write_briefly(descriptor, $0.baseAddress?.advanced(by: from), count))
    }
}

/// Reads from an offset of a file borrowed by number (pread(2)).
public func read(_ descriptor: Int32, at offset: Int, into buffer: inout [UInt8]) -> IOOutcome {
    unsafe buffer.withUnsafeMutableBytes {
        unsafe IOOutcome(ck_read_at(descriptor, $0.baseAddress, $0.count, UInt64(max(0, offset))))
    }
}

/// Writes at an offset of a file borrowed by number (pwrite(2)).
public func write(_ descriptor: Int32, _ bytes: [UInt8], at offset: Int) -> IOOutcome {
    unsafe bytes.withUnsafeBytes {
        unsafe IOOutcome(ck_write_at(descriptor, $0.baseAddress, $0.count, UInt64(max(0, offset))))
    }
}

/// How many bytes can be read now (FIONREAD); 0 where that cannot be said.
public func readableCount(_ descriptor: Int32) -> Int { Int(max(0, ck_readable(descriptor))) }

/// Moves up to `limit` bytes from a pipe to an offset of a file without blocking (splice(2)). They leave the pipe as they
/// reach the file: nothing is in between, so nothing is lost there with the process.
public func splice(_ pipe: Int32, to file: Int32, at offset: Int, limit: Int) -> IOOutcome {
    IOOutcome(ck_splice(pipe, file, UInt64(max(0, offset)), limit))
}

/// Moves up to `limit` bytes from a pipe to a stream socket or the other way, without blocking and without a copy (splice(2)).
public func splice(from source: Int32, to sink: Int32, limit: Int) -> IOOutcome {
    IOOutcome(ck_splice_stream(source, sink, limit))
}

/// Writes all bytes, waiting for a descriptor that takes no more for now; what it does not take for a hundred seconds, or
/// when it is closed, is lost.
public func writeAll(_ bytes: [UInt8], to descriptor: Int32) {
    var done = 0
    var waits = 0
    while done < bytes.count, waits < 100 {
        switch write(descriptor, bytes, from: done) {
        case .bytes(let n): done += n
        case .wouldBlock:
            _ = ck_poll(descriptor, 4, 1000)
            waits += 1
        case .failed: return
        }
    }
}

/// Writes a whole string with one write(2), for lines on a terminal or in a log; what a pipe does not take is lost.
public func writeLine(_ text: String, to descriptor: Int32) { writeAll(Array(text.utf8), to: descriptor) }

/// Two connected local sockets (socketpair(2)), closed on exec.
public func makeSocketPair(_ kind: SocketKind) throws(KernelError) -> (Descriptor, Descriptor) {
    var fds: (Int32, Int32) = (-1, -1)
    let result = unsafe withUnsafeMutableBytes(of: &fds) {
        unsafe ck_socketpair(kind.rawValue, $0.assumingMemoryBound(to: Int32.self).baseAddress)
    }
    _ = try check(result, "make a socket pair")
    return (Descriptor(OwnedDescriptor(owning: fds.0)), Descriptor(OwnedDescriptor(owning: fds.1)))
}

/// A pipe (pipe2(2)), closed on exec: its reading and its writing end.
public func makePipe() throws(KernelError) -> (reading: Descriptor, writing: Descriptor) {
    var fds: (Int32, Int32) = (-1, -1)
    let result = unsafe withUnsafeMutableBytes(of: &fds) {
        unsafe ck_pipe($0.assumingMemoryBound(to: Int32.self).baseAddress)
    }
    _ = try check(result, "make a pipe")
    return (Descriptor(OwnedDescriptor(owning: fds.0)), Descriptor(OwnedDescriptor(owning: fds.1)))
}

/// An anonymous file in memory (memfd_create(2)) that holds `bytes`.
public func makeMemoryFile(_ name: String, holding bytes: [UInt8]) throws(KernelError) -> Descriptor {
    let owned = OwnedDescriptor(owning: try check(unsafe ck_memfd(name), "make memory file", name))
    var done = 0
    while done < bytes.count {
        guard case .bytes(let n) = owned.write(bytes, from: done) else {
            throw KernelError(call: "write memory file", subject: name, errno: .ioError)
        }
        done += n
    }
    return Descriptor(owned)
}

/// The kind of a local socket.
public enum SocketKind: Int32, Sendable {
    /// SOCK_STREAM: bytes.
    case stream = 1
    /// SOCK_SEQPACKET: messages, with notice of the other end's close.
    case sequencedPacket = 5
}

extension OwnedDescriptor {
    /// Another descriptor for an open file that is borrowed by number, closed on exec.
    public static func duplicate(of number: Int32) throws(KernelError) -> Descriptor {
        Descriptor(OwnedDescriptor(owning: try check(ck_dup(number), "duplicate descriptor")))
    }
}
