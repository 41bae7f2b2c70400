public import SystemPackage

/// A system call that failed: which call, on what, and why. The leaf of every error a user reads.
public struct KernelError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What was attempted, as a verb phrase: `open`, `mount proc on`.
    public let call: String
    /// The file, address or process it was attempted on; may be empty.
    public let subject: String
    /// The reason the kernel gave (errno(3)).
    public let errno: Errno

    /// Records a failed call.
    public init(call: String, subject: String = "", errno: Errno) {
        self.call = call
        self.subject = subject
        self.errno = errno
    }

    /// Whether processes, descriptors or memory are exhausted, so that the same call may succeed later.
    public var isShortage: Bool {
        [.resourceTemporarilyUnavailable, .noMemory, .tooManyOpenFiles, .tooManyOpenFilesInSystem].contains(errno)
    }

    /// `cannot CALL SUBJECT: reason`, the one grammar of our messages.
    public var description: String {
        "cannot \(call)\(subject.isEmpty ? "" : " \(subject)"): \(errno.description)"
    }
}

/// Turns the shim's "-errno" into a thrown error.
@inline(__always)
func check(_ result: Int32, _ call: StaticString, _ subject: @autoclosure () -> String = "") throws(KernelError)
    -> Int32
{
    if result < 0 { throw KernelError(call: "\(call)", subject: subject(), errno: Errno(rawValue: -result)) }
    return result
}

/// Turns the shim's "-errno" into a thrown error.
@inline(__always)
func check(_ result: Int, _ call: StaticString, _ subject: @autoclosure () -> String = "") throws(KernelError) -> Int {
    if result < 0 { throw KernelError(call: "\(call)", subject: subject(), errno: Errno(rawValue: CInt(-result))) }
    return result
}

/// The outcome of a call on a non-blocking descriptor, without allocation: for hot paths that throw nothing.
public enum IOOutcome: Equatable, Sendable {
    /// So many bytes were moved; 0 at the end of a stream.
    case bytes(Int)
    /// Nothing can be moved now (EAGAIN).
    case wouldBlock
    /// The call failed.
    case failed(Errno)

    @inline(__always)
    init(_ result: Int) {
        if result >= 0 {
            self = .bytes(result)
        } else if result == -11 {
            self = .wouldBlock
        } else {
            self = .failed(Errno(rawValue: CInt(-result)))
        }
    }
}
