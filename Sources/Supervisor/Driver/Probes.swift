internal import Config
internal import Kernel
internal import SystemPackage

/// Healthchecks: each probe is a process of its own, in the unit's surroundings.
extension Supervisor {
    func probe(_ id: Int, _ number: Int, _ actions: inout [Engine.Action]) {
        do {
            let output = try ProbeOutput()
            try poller.add(output.number, .readable, token: Token.probe | UInt64(output.number))
            let pid = try spawnProbe(id, output)
            output.closeWritingEnd()
            probes[pid] = RunningProbe(
                unit: id, number: number, job: saved.add(["probe", "\(pid)"]), output: output)
        } catch {
            let outcome: ProbeOutcome = error.isShortage ? .notAsked : .failed("\(error)")
            engine.handle(.probed(id, number: number, outcome), at: .now, into: &actions)
        }
    }

    private func spawnProbe(_ id: Int, _ output: ProbeOutput) throws(KernelError) -> Int32 {
        let unit = units[id]
        guard let check = unit.spec.healthcheck else {
            throw KernelError(call: "probe", subject: unit.spec.name, errno: .invalidArgument)
        }
        let null = try Files.open("/dev/null", flags: 2)
        var spawnPlan = SpawnPlan(
            path: "/proc/self/exe", arguments: [], environment: unit.environment,
            descriptors: [null.number, output.writingNumber, output.writingNumber])
        switch check.probe {
        case .port, .http: spawnPlan.arguments = NetworkProbe.arguments(check.probe) ?? []
        case .shell(let text):
            spawnPlan.path = "/bin/sh"
            spawnPlan.arguments = ["sh", "-c", text]
            spawnPlan.identity = unit.identity
        case .program(let words):
            spawnPlan = SpawnPlan(
                command: words, environment: unit.environment, descriptors: spawnPlan.descriptors)
            spawnPlan.identity = unit.identity
        }
        spawnPlan.directory = unit.directory
        spawnPlan.newSession = true
        spawnPlan.entered = namespaces
        spawnPlan.deathSignal = .kill
        let pid = try spawn(spawnPlan)
        withExtendedLifetime(null) {}
        return pid
    }

    /// A probe has printed something, or whatever could has ended.
    func takeProbeOutput(_ number: Int32) {
        guard let output = probes.values.first(where: { $0.output.number == number })?.output else { return }
        if !output.take() { poller.remove(number) }
    }

    /// Its time is over, or nobody wants to know any more.
    func cancelProbe(_ id: Int, _ number: Int) {
        for (pid, probe) in probes where probe.unit == id && probe.number == number { forget(probe, pid) }
    }

    /// A process ended; true when it was a probe.
    func finishProbe(_ pid: Int32, _ status: ExitStatus) -> Bool {
        guard let probe = probes[pid] else { return false }
        _ = probe.output.take()
        forget(probe, pid)
        let outcome: ProbeOutcome =
            status.isSuccess
            ? .succeeded
            : .failed([status.description, probe.output.lastLine].compactMap { $0 }.joined(separator: ": "))
        perform { engine, now, actions in
            engine.handle(.probed(probe.unit, number: probe.number, outcome), at: now, into: &actions)
        }
        return true
    }

    /// What it left running goes with it.
    private func forget(_ probe: RunningProbe, _ pid: Int32) {
        send(.kill, to: -pid)
        poller.remove(probe.output.number)
        probes[pid] = nil
        saved.removeJob(probe.job)
    }
}

/// A probe under way.
struct RunningProbe {
    let unit: Int
    let number: Int
    let job: Int
    let output: ProbeOutput
}

/// The pipe that a probe prints to, and the end of what came through it.
final class ProbeOutput {
    private static let limit = 512
    private let reading: Descriptor
    private var writing: Descriptor?
    private var tail: [UInt8] = []

    init() throws(KernelError) {
        let (reading, writing) = try makePipe()
        try reading.setNonblocking(true)
        self.reading = reading
        self.writing = writing
    }

    /// The descriptor to watch.
    var number: Int32 { reading.number }
    /// The descriptor that the probe gets.
    var writingNumber: Int32 { writing?.number ?? -1 }

    /// The probe has its own by now.
    func closeWritingEnd() { writing = nil }

    /// Reads what has come; false at the end. A probe that prints without an end costs no more than this each time.
    func take() -> Bool {
        var buffer = [UInt8](repeating: 0, count: 4096)
        for _ in 0..<16 {
            switch Kernel.read(reading.number, into: &buffer) {
            case .bytes(0), .failed: return false
            case .bytes(let count):
                tail += buffer[..<count]
                if tail.count > Self.limit { tail.removeFirst(tail.count - Self.limit) }
            case .wouldBlock: return true
            }
        }
        return true
    }

    /// The last line that is not blank, without control characters; nil for none.
    var lastLine: String? {
        let lines = tail.split { $0 == 10 || $0 == 13 }.map { line in
            let text = String(decoding: line, as: UTF8.self).unicodeScalars.filter {
                $0.properties.generalCategory != .control
            }
            return String(String.UnicodeScalarView(text)).trimmed
        }
        return lines.last { !$0.isEmpty }
    }
}

extension String {
    /// Without white space at its ends.
    fileprivate var trimmed: String {
        guard let first = firstIndex(where: { !$0.isWhitespace }), let last = lastIndex(where: { !$0.isWhitespace })
        else {
            return ""
        }
        return String(self[first...last])
    }
}
