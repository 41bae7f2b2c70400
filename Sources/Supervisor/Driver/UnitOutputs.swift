internal import Kernel

/// The reading ends of the units' outputs. They are watched together, by a poller of their own that the loop's watches, so that
/// all of them wait while the console has enough to write.
final class UnitOutputs {
    /// Pieces that one turn of the loop reads, so that a request does not wait long behind units' output.
    static let piecesPerTurn = 4
    private var descriptors: [Int: Descriptor] = [:]
    private let poller: Poller
    private var isWatched = false

    init() throws(KernelError) { poller = try Poller() }

    /// The unit's, while it has one.
    subscript(id: Int) -> Descriptor? { descriptors[id] }

    /// The units that have one.
    var ids: [Int] { descriptors.keys.sorted() }

    /// Watches the unit's output in place of the one before.
    func watch(_ id: Int, _ descriptor: Descriptor) throws(KernelError) {
        forget(id)
        descriptors[id] = descriptor
        try poller.add(descriptor.number, .readable, token: UInt64(id))
    }

    /// The unit's output has ended.
    func forget(_ id: Int) {
        guard let old = descriptors.removeValue(forKey: id) else { return }
        poller.remove(old.number)
    }

    /// The next unit whose output has something to read; those that have been read come last.
    func nextReady() -> Int? {
        guard let count = try? poller.wait(.zero, limit: 1), count > 0 else { return nil }
        return Int(poller.event(0).token)
    }

    /// Has the loop's poller say when there is something to read, unless units are held back.
    func settle(_ loop: borrowing Poller, token: UInt64, heldBack: Bool) {
        if heldBack, isWatched {
            loop.remove(poller.number)
            isWatched = false
        } else if !heldBack, !isWatched {
            isWatched = (try? loop.add(poller.number, .readable, token: token)) != nil
        }
    }
}
