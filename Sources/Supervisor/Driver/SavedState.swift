internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// What outlives the supervisor, in a memory file that ring2 holds and hands to each one:
///
///     0        the whole: which plan counts, how far the engine is
///     64 KiB   a slot for each unit, by its place
///     32 MiB   a slot for each job: a client that waits, a program that `exec` runs, a probe
///     64 MiB   the plan; 128 MiB: the other plan, written while the first one counts
///
/// A slot is written with one pwrite(2) whenever what it says changes, and is never seen half written.
///
/// KERNEL: a write to a file in memory that stays within one page is not cut short by SIGKILL: signals are looked for
/// between pages. A slot never crosses a page. (A checksum tells the rest.)
final class SavedState {
    private let file: Descriptor
    private static let slotSize = 2048, slotCount = 16384
    private static let unitsAt = 64 << 10, jobsAt = 32 << 20, plansAt = [64 << 20, 128 << 20]
    private static let planLimit = 48 << 20
    private var saved: [UnitRecord?] = []
    /// Places whose slots say more than `saved` does.
    private var announced: Set<Int> = []
    /// The jobs, by place: what the supervisor before left, and what was added since.
    private(set) var jobs: [Int: [String]] = [:]
    private var freeJobs: [Int] = []
    private var jobCount = 0
    /// The whole: where the plan lies, what else there is to know of it.
    private var planIndex = 0, planLength = 0
    private(set) var whole: [String] = []

    /// Takes over a file, with whatever is in it.
    init(_ file: Descriptor) {
        self.file = file
        guard let fields = load(0), fields.count >= 2, let index = Int(fields[0]), let length = Int(fields[1]),
            Self.plansAt.indices.contains(index)
        else { return }
        planIndex = index
        planLength = length
        whole = Array(fields[2...])
        loadJobs()
    }

    /// A new file that holds a plan and nothing else.
    static func file(for plan: SupervisorPlan) throws(KernelError) -> Descriptor {
        let file = try makeMemoryFile("workspacekit-state", holding: [])
        try SavedState(file).save(plan)
        return file
    }

    // MARK: the plan and the whole

    /// The plan that counts.
    func plan() -> SupervisorPlan? {
        guard planLength > 0, planLength <= Self.planLimit else { return nil }
        var bytes = [UInt8](repeating: 0, count: planLength)
        guard case .bytes(planLength) = Kernel.read(file.number, at: Self.plansAt[planIndex], into: &bytes) else {
            return nil
        }
        return SupervisorPlan(decoding: bytes)
    }

    /// Another plan counts from now on.
    func save(_ plan: SupervisorPlan) throws(KernelError) {
        let bytes = plan.encoded
        let index = planLength == 0 ? 0 : 1 - planIndex
        guard bytes.count <= Self.planLimit, case .bytes(bytes.count) = write(bytes, Self.plansAt[index]) else {
            throw KernelError(call: "save", subject: "the configuration for a later supervisor", errno: .noSpace)
        }
        planIndex = index
        planLength = bytes.count
        store(0, ["\(planIndex)", "\(planLength)"] + whole)
    }

    /// How far the whole is.
    func save(whole fields: [String]) {
        guard fields != whole else { return }
        whole = fields
        store(0, ["\(planIndex)", "\(planLength)"] + fields)
    }

    // MARK: units

    /// Writes what is known of a unit, if it has changed; `tell` gets what was known before.
    func save(_ record: UnitRecord, at place: Int, telling tell: (UnitRecord?) -> Void = { _ in }) {
        while saved.count <= place { saved.append(nil) }
        let wasAnnounced = announced.remove(place) != nil
        guard place < Self.slotCount, saved[place] != record || wasAnnounced else { return }
        tell(saved[place])
        saved[place] = record
        store(Self.unitsAt + place * Self.slotSize, record.fields)
    }

    /// Writes what is about to be so: the next supervisor finds it, and tells of it if it is so then.
    func announce(_ record: UnitRecord, at place: Int) {
        guard place < Self.slotCount else { return }
        announced.insert(place)
        store(Self.unitsAt + place * Self.slotSize, record.fields)
    }

    /// The units' records, by place; nil for one that cannot be read, which says nothing of those after it.
    func records() -> [UnitRecord?] {
        var records: [UnitRecord?] = []
        while records.count < Self.slotCount {
            switch slot(Self.unitsAt + records.count * Self.slotSize) {
            case .unused:
                saved = records.map { $0?.isAnnounced == true ? nil : $0 }
                return records
            case .damaged: records.append(nil)
            case .fields(let fields): records.append(UnitRecord(fields: fields))
            }
        }
        saved = records
        return records
    }

    // MARK: jobs

    /// A place for a job; free it when it is done.
    func add(_ fields: [String]) -> Int {
        let place = freeJobs.popLast() ?? jobCount
        if place == jobCount { jobCount += 1 }
        replaceJob(place, fields)
        return place
    }

    func replaceJob(_ place: Int, _ fields: [String]) {
        jobs[place] = fields
        writeJob(place, fields)
    }

    func removeJob(_ place: Int) {
        guard jobs.removeValue(forKey: place) != nil else { return }
        freeJobs.append(place)
        writeJob(place, ["free"])
    }

    private func writeJob(_ place: Int, _ fields: [String]) {
        if place < Self.slotCount { store(Self.jobsAt + place * Self.slotSize, fields) }
    }

    private func loadJobs() {
        while jobCount < Self.slotCount {
            switch slot(Self.jobsAt + jobCount * Self.slotSize) {
            case .unused: return
            case .damaged: freeJobs.append(jobCount)
            case .fields(["free"]): freeJobs.append(jobCount)
            case .fields(let fields): jobs[jobCount] = fields
            }
            jobCount += 1
        }
    }

    // MARK: slots

    /// What a slot has.
    private enum Slot {
        /// Nothing was ever written there.
        case unused
        case damaged
        case fields([String])
    }

    private func store(_ offset: Int, _ fields: [String]) {
        var payload = ChannelMessage("", fields).encoded
        // Not to happen, as all fields are bounded; the slot must not look unused then.
        if payload.count > Self.slotSize - 8 { payload = [] + payload.prefix(Self.slotSize - 8) }
        let head = [UInt32(payload.count), checksum(payload)].flatMap { word in
            (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) }
        }
        _ = write(head + payload, offset)
    }

    private func load(_ offset: Int) -> [String]? {
        if case .fields(let fields) = slot(offset) { fields } else { nil }
    }

    private func slot(_ offset: Int) -> Slot {
        var slot = [UInt8](repeating: 0, count: Self.slotSize)
        guard case .bytes(let count) = Kernel.read(file.number, at: offset, into: &slot), count >= 8,
            slot.contains(where: { $0 != 0 })
        else { return .unused }
        func word(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(slot[at + $1]) << (8 * UInt32($1)) } }
        let length = Int(word(0))
        guard length > 0, length <= count - 8 else { return .damaged }
        let payload = slot[8..<(8 + length)]
        guard checksum(payload) == word(4), let message = ChannelMessage(decoding: payload) else { return .damaged }
        return .fields(message.fields)
    }

    private func write(_ bytes: [UInt8], _ offset: Int) -> IOOutcome { Kernel.write(file.number, bytes, at: offset) }
}

/// FNV-1a: the same number for the same bytes in every supervisor.
func checksum(_ bytes: some Sequence<UInt8>) -> UInt32 {
    bytes.reduce(2_166_136_261) { ($0 ^ UInt32($1)) &* 16_777_619 }
}
