internal import CKernel
internal import SystemPackage

/// Which readiness is asked for or was reported (epoll(7)).
public struct Readiness: OptionSet, Sendable {
    /// The bits of epoll(7).
    public let rawValue: UInt32
    /// From the bits of epoll(7).
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// There is something to read, or the end.
    public static let readable = Readiness(rawValue: 0x001)
    /// Something out of the ordinary (EPOLLPRI): urgent data, read or not (tcp(7)); of the list of mounts, that it has changed.
    public static let urgent = Readiness(rawValue: 0x002)
    /// Writing would not block.
    public static let writable = Readiness(rawValue: 0x004)
    /// An error is pending; always reported.
    public static let failed = Readiness(rawValue: 0x008)
    /// Both directions are closed; always reported.
    public static let hungUp = Readiness(rawValue: 0x010)
    /// The peer has shut down its writing half.
    public static let peerClosed = Readiness(rawValue: 0x2000)
    /// Report changes only (EPOLLET).
    public static let edgeTriggered = Readiness(rawValue: 0x8000_0000)
}

/// One report: the token given with the descriptor, and what it is ready for.
public struct ReadyEvent: Sendable {
    /// What was given with the descriptor.
    public let token: UInt64
    /// What it is ready for.
    public let readiness: Readiness
}

/// An epoll(7) instance with its own fixed event buffer: waiting allocates nothing.
@safe public struct Poller: ~Copyable {
    private let epoll: Int32
    private let buffer: UnsafeMutablePointer<ck_event>
    /// How many events one wait brings at most.
    public static let capacity = 64

    /// Makes an empty instance.
    public init() throws(KernelError) {
        epoll = try check(ck_epoll_create(), "make an epoll instance")
        unsafe buffer = UnsafeMutablePointer<ck_event>.allocate(capacity: Self.capacity)
    }

    deinit {
        _ = ck_close(epoll)
        unsafe buffer.deallocate()
    }

    /// Watches a descriptor; `token` comes back with its events.
    public borrowing func add(_ descriptor: Int32, _ interest: Readiness, token: UInt64) throws(KernelError) {
        _ = try check(ck_epoll_add(epoll, descriptor, interest.rawValue, token), "watch descriptor", "\(descriptor)")
    }

    /// Watches a descriptor that is watched already for something else.
    public borrowing func change(_ descriptor: Int32, _ interest: Readiness, token: UInt64) throws(KernelError) {
        _ = try check(ck_epoll_change(epoll, descriptor, interest.rawValue, token), "watch descriptor", "\(descriptor)")
    }

    /// The instance's own number: another instance may watch it, and finds it readable while something is ready here.
    public var number: Int32 { epoll }

    /// Stops watching. Closing a descriptor that has no duplicate does the same.
    public borrowing func remove(_ descriptor: Int32) { _ = ck_epoll_remove(epoll, descriptor) }

    /// Waits until something is ready or the timeout passes (nil: for ever). Returns how many events `event(_:)` has, which
    /// are at most `limit`; those that are left out come first the next time.
    public borrowing func wait(_ timeout: Duration?, limit: Int = capacity) throws(KernelError) -> Int {
        let milliseconds = timeout.map { max(0, $0.millisecondsRoundedUp) } ?? -1
        return Int(
            try check(
                unsafe ck_epoll_wait(epoll, buffer, CInt(min(limit, Self.capacity)), milliseconds), "wait for events"))
    }

    /// Event `index` of the last wait.
    public borrowing func event(_ index: Int) -> ReadyEvent {
        precondition(index >= 0 && index < Self.capacity)
        let raw = unsafe buffer[index]
        return ReadyEvent(token: raw.token, readiness: Readiness(rawValue: raw.events))
    }
}

/// Waits until one descriptor is readable (or closed); false when the time is over first.
public func waitReadable(_ descriptor: Int32, _ timeout: Duration?) -> Bool {
    ck_poll(descriptor, 1, timeout.map(\.millisecondsRoundedUp) ?? -1) > 0
}

/// Waits until a write would not block; false when the time is over first.
public func waitWritable(_ descriptor: Int32, _ timeout: Duration?) -> Bool {
    ck_poll(descriptor, 4, timeout.map(\.millisecondsRoundedUp) ?? -1) > 0
}
