import Testing

@testable import Ring

@Suite("OwnerShift")
struct OwnerShiftTests {
    private func shift() throws -> OwnerShift {
        try OwnerShift(user: 33333, group: 33334, start: 100_000, count: 65536)
    }

    @Test("owners become what the workspace's map makes them inside")
    func agreesWithTheMap() throws {
        let shift = try shift()
        let situation = IDMap.Situation(
            uid: 33333, gid: 33334, maySetIDs: false, mayMapRoot: false, uidMap: "", gidMap: "",
            subuid: "33333:100000:65536\n", subgid: "33333:100000:65536\n", userName: nil, hasHelpers: true)
        let map = IDMap.choose(situation)
        func outside(_ ranges: [IDRange], _ id: UInt32) -> UInt32? {
            ranges.first { $0.inside <= id && id - $0.inside < $0.count }.map { $0.outside + id - $0.inside }
        }
        for id: UInt32 in [0, 1, 2, 33, 999, 1000, 65533, 65534, 65535] {
            #expect(outside(map.users, id).map { .shifted($0) } == shift.user(id))
            #expect(outside(map.groups, id).map { .shifted($0) } == shift.group(id))
        }
        // Ids of the stages' user namespace that the workspace's does not have.
        #expect(map.workspace.stages == 65536)
        #expect(shift.user(65536) == .beyond)
    }

    @Test("what was shifted stays, and what has no place is told")
    func repeated() throws {
        let shift = try shift()
        for id: UInt32 in [0, 1, 4242, 65535] {
            guard case .shifted(let once) = shift.user(id) else {
                Issue.record("\(id) is not shifted")
                continue
            }
            #expect(shift.user(once) == .already)
        }
        #expect(shift.user(33333) == .already && shift.user(100_000) == .already && shift.user(165_535) == .already)
        #expect(shift.user(33334) == .shifted(133_333) && shift.group(33333) == .shifted(133_332))
        #expect(shift.user(99_999) == .beyond && shift.user(165_536) == .beyond && shift.user(.max) == .beyond)
    }

    @Test("ranges that would make a shift ambiguous are refused")
    func refused() {
        func problem(_ user: UInt32, _ start: UInt32, _ count: UInt32) -> OwnerShift.Problem? {
            do throws(OwnerShift.Problem) {
                _ = try OwnerShift(user: user, group: user, start: start, count: count)
                return nil
            } catch { return error }
        }
        #expect(problem(0, 100_000, 65536) == .isRoot)
        #expect(problem(33333, 100_000, 999) == .rangeIsShort)
        #expect(problem(33333, 65535, 65536) == .rangeBeginsEarly)
        #expect(problem(100_000, 100_000, 65536) == .rangeHasTheUser)
        #expect(problem(33333, .max, 1000) == .rangeEndsLate)
        #expect(problem(33333, .max - 999, 1000) == .rangeEndsLate)
        #expect(problem(33333, 65536, 65536) == nil)
    }

    @Test("capabilities of version 2 get the user as their root, others stay")
    func capabilities() throws {
        let shift = try shift()
        let second: [UInt8] = [1, 0, 0, 2, 0, 0x20, 0, 0] + [UInt8](repeating: 0, count: 12)
        let third = [1, 0, 0, 3] + second[4...] + [0x35, 0x82, 0, 0]
        #expect(shift.capabilities(second) == third)
        #expect(shift.capabilities(third) == nil)
        for count in 0..<64 where count != 20 {
            #expect(shift.capabilities([UInt8](repeating: 2, count: count)) == nil)
        }
    }
}
