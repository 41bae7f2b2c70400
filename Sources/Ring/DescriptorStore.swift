internal import Kernel

/// Descriptors that ring2 keeps for the supervisor, by key, so that they outlive it (systemd's word for it is the file
/// descriptor store). Its size is fixed: nothing is allocated once it is made.
struct DescriptorStore: ~Copyable {
    /// How many it holds at most.
    static let capacity = 16384
    private var keys: [UInt64]
    private var numbers: [Int32]
    private(set) var count = 0

    init() {
        keys = [UInt64](repeating: 0, count: Self.capacity)
        numbers = [Int32](repeating: -1, count: Self.capacity)
    }

    deinit { for index in 0..<count { _ = OwnedDescriptor(owning: numbers[index]) } }

    /// Takes over the descriptor; the one under the same key is closed. Beyond the capacity the descriptor is closed: false.
    @discardableResult
    mutating func keep(_ key: UInt64, _ number: Int32) -> Bool {
        if let index = index(of: key) {
            _ = OwnedDescriptor(owning: numbers[index])
            numbers[index] = number
            return true
        }
        guard count < Self.capacity else {
            _ = OwnedDescriptor(owning: number)
            return false
        }
        keys[count] = key
        numbers[count] = number
        count += 1
        return true
    }

    /// Closes the descriptor under the key, if there is one.
    mutating func discard(_ key: UInt64) {
        guard let index = index(of: key) else { return }
        _ = OwnedDescriptor(owning: numbers[index])
        count -= 1
        keys[index] = keys[count]
        numbers[index] = numbers[count]
    }

    /// The entry at a place below ``count``; the order changes with each ``discard(_:)``.
    borrowing func entry(_ index: Int) -> (key: UInt64, number: Int32) { (keys[index], numbers[index]) }

    private borrowing func index(of key: UInt64) -> Int? {
        var index = 0
        while index < count {
            if keys[index] == key { return index }
            index += 1
        }
        return nil
    }
}
