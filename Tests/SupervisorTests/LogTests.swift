import Control
import Kernel
import Testing

@Suite("Times of a log")
struct LogTimesTests {
    @Test("each byte has the time of the piece that it came in")
    func times() {
        let records = [(0, 10), (5, 20), (5, 25), (100, 30)].flatMap {
            LogTimes.record(offset: $0.0, at: WallInstant(nanoseconds: $0.1))
        }
        let times = LogTimes(records + [1, 2, 3])
        #expect([0, 4, 5, 99, 100, 1 << 40].map { times.time(of: $0)?.nanoseconds } == [10, 10, 25, 25, 30, 30])
        #expect(LogTimes([]).time(of: 0) == nil)
    }
}
