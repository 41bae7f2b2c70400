import Testing

@testable import Kernel

@Suite("Civil time")
struct WallInstantTests {
    @Test(arguments: [
        (0, "1970-01-01T00:00:00.000Z"), (951_827_696_789, "2000-02-29T12:34:56.789Z"),
        (-1, "1969-12-31T23:59:59.999Z"), (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (1_795_575_845_678, "2026-11-25T03:04:05.678Z"), (-8_520_336_000_000, "1700-01-01T00:00:00.000Z"),
    ])
    func texts(_ milliseconds: Int64, _ text: String) {
        #expect(WallInstant(nanoseconds: milliseconds * 1_000_000).description == text)
        #expect(WallInstant(text)?.nanoseconds == milliseconds * 1_000_000)
    }

    @Test("every day reads as it was written")
    func days() {
        for day in Int64(-90_000)..<90_000 {
            let instant = WallInstant(nanoseconds: day * 86_400_000_000_000)
            #expect(WallInstant(instant.description) == instant)
        }
    }

    @Test("offsets, fractions and dates alone")
    func forms() {
        #expect(WallInstant("2000-01-01T02:00:00+02:00") == WallInstant("2000-01-01T00:00:00Z"))
        #expect(WallInstant("1999-12-31 22:30:00.5-01:30") == WallInstant("2000-01-01T00:00:00.500Z"))
        #expect(WallInstant("2000-01-01") == WallInstant("2000-01-01T00:00:00Z"))
        #expect(WallInstant("2000-01-01T00:00:00.123456789123Z")?.nanoseconds == 946_684_800_123_456_789)
        for bad in [
            "", "2000", "2000-13-01", "2000-01-32", "2000-01-01T", "2000-01-01T25:00:00Z", "2000-01-01T00:00:00+2",
            "2000-01-01T00:00:00.Z", "yesterday", "2000-01-01T00:00:00ZZ",
        ] {
            #expect(WallInstant(bad) == nil, "\(bad)")
        }
    }
}

@Suite("Ports")
struct PortSetTests {
    @Test("ranges join, and what is excluded is not in it")
    func ranges() {
        let set = PortSet([3...5, 6...6, 1...65535], without: [10...20, 65535...65535])
        #expect(set.description == "1-9 21-65534" && PortSet(text: set.description) == set)
        #expect(set.contains(9) && !set.contains(10) && !set.contains(65535))
        #expect(PortSet([]).isEmpty && PortSet(text: "x 5-3 7").description == "7")
    }
}
