internal import Kernel

/// # Theory of operation
///
/// Deadlines of flows, hashed by time into slots of 16 ms; a flow hangs in its slot's list through indices of its own.
/// Moving a deadline forward only writes the flow: when the slot comes, the flow is asked again and, if it is not due,
/// hung further on. So the hot path never touches a list. A deadline beyond the wheel waits in its last slot.
struct TimerWheel: ~Copyable {
    private static let slotCount = 1024
    private static let shift: Int64 = 24  // 2^24 ns = 16.8 ms
    private var heads = [UInt32](repeating: 0, count: slotCount)
    private var occupied = [UInt64](repeating: 0, count: slotCount / 64)
    private var current: Int64
    private var count = 0

    init(at now: MonotonicInstant) { current = now.nanoseconds >> Self.shift }

    /// Sets when a flow is to be looked at. Cheap when it is already to be looked at earlier.
    @inline(__always)
    mutating func schedule(_ index: Int, at deadline: Int64, in table: borrowing FlowTable) {
        let slot = table[index].timerSlot
        let old = table[index].deadline
        table[index].deadline = deadline
        if slot >= 0 {
            if old <= deadline { return }
            unlink(index, table)
        }
        link(index, table)
    }

    /// The flow needs no look any more.
    mutating func cancel(_ index: Int, in table: borrowing FlowTable) {
        table[index].deadline = 0
        if table[index].timerSlot >= 0 { unlink(index, table) }
    }

    private mutating func link(_ index: Int, _ table: borrowing FlowTable) {
        let tick = min(max((table[index].deadline >> Self.shift) + 1, current + 1), current + Int64(Self.slotCount) - 1)
        let slot = Int(tick % Int64(Self.slotCount))
        let next = heads[slot]
        table[index].timerNext = next
        table[index].timerPrevious = 0
        table[index].timerSlot = Int32(slot)
        if next != 0 { table[Int(next - 1)].timerPrevious = UInt32(index + 1) }
        heads[slot] = UInt32(index + 1)
        occupied[slot >> 6] |= 1 << UInt64(slot & 63)
        count += 1
    }

    private mutating func unlink(_ index: Int, _ table: borrowing FlowTable) {
        let slot = Int(table[index].timerSlot)
        let next = table[index].timerNext
        let previous = table[index].timerPrevious
        if next != 0 { table[Int(next - 1)].timerPrevious = previous }
        if previous != 0 { table[Int(previous - 1)].timerNext = next } else { heads[slot] = next }
        if heads[slot] == 0 { occupied[slot >> 6] &= ~(1 << UInt64(slot & 63)) }
        table[index].timerSlot = -1
        count -= 1
    }

    /// A flow that is due, taken off the wheel; nil when none is. Call until nil.
    mutating func next(at now: MonotonicInstant, in table: borrowing FlowTable) -> Int? {
        let target = now.nanoseconds >> Self.shift
        if count == 0 {
            current = max(current, target)
            return nil
        }
        while current <= target {
            let slot = Int(current % Int64(Self.slotCount))
            while heads[slot] != 0 {
                let index = Int(heads[slot] - 1)
                unlink(index, table)
                let deadline = table[index].deadline
                if deadline == 0 { continue }
                if deadline <= now.nanoseconds {
                    table[index].deadline = 0
                    return index
                }
                link(index, table)
                if heads[slot] == UInt32(index + 1) { break }  // hung back into this very slot, a turn later
            }
            if current == target { break }
            current += 1
        }
        return nil
    }

    /// When to look next; nil when nothing waits.
    func nextDeadline() -> MonotonicInstant? {
        guard count > 0 else { return nil }
        var offset: Int64 = 0
        while offset < Int64(Self.slotCount) {
            let slot = Int((current + offset) % Int64(Self.slotCount))
            if occupied[slot >> 6] == 0 {
                offset += Int64(64 - (slot & 63))
            } else if heads[slot] == 0 {
                offset += 1
            } else {
                return MonotonicInstant(nanoseconds: (current + offset) << Self.shift)
            }
        }
        return nil
    }
}
