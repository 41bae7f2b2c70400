internal import Config
internal import Control
internal import Kernel
internal import SystemPackage

/// What a unit's process is given to say that it is ready with, and where that is heard.
enum ReadinessChannel {
    /// A newline on a pipe, as s6 has it: the child's end has the number that NOTIFY_FD names.
    case newline(reading: Descriptor)
    /// sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names.
    case notifications(socket: Descriptor)
    /// A line of its output.
    case log(LineMatcher)

    var descriptor: Descriptor? {
        switch self {
        case .newline(let descriptor), .notifications(let descriptor): descriptor
        case .log: nil
        }
    }
}

/// What a datagram of sd_notify(3) says: assignments, one a line.
struct Notification: Hashable {
    var isReady = false
    var lives = false
    var status: String?
    /// The process that is to be the unit's once the one that was started has ended.
    var mainProcess: Int32?

    init(_ bytes: ArraySlice<UInt8>) {
        for line in bytes.split(separator: 10) {
            let text = String(decoding: line, as: UTF8.self)
            if text == "READY=1" { isReady = true }
            if text == "WATCHDOG=1" { lives = true }
            // STOPPING=1 changes nothing here.
            if text.hasPrefix("MAINPID=") { mainProcess = Int32(text.dropFirst(8)).flatMap { $0 > 1 ? $0 : nil } }
            if text.hasPrefix("STATUS=") {
                status = BoundedName.prefix(String(text.dropFirst(7)), bytes: UnitRecord.statusLimit)
            }
        }
    }
}

extension Supervisor {
    /// Makes the unit's way to say that it is ready, and adds to its process what it needs for it. The returned
    /// descriptor is the child's, to be kept until it runs.
    func prepareReadiness(_ id: Int, _ spawnPlan: inout SpawnPlan) throws(KernelError) -> Descriptor? {
        if let old = readiness[id]?.descriptor { poller.remove(old.number) }
        if readiness[id]?.descriptor != nil { forgetReadiness(id) }
        readiness[id] = nil
        statusTexts[id] = nil
        mainProcesses[id] = nil
        let token = Token.readiness | UInt64(id)
        switch units[id].readiness {
        case nil: return nil
        case .log(let expression)?:
            readiness[id] = LineMatcher(expression).map { .log($0) }
            return nil
        case .newline?:
            let (reading, writing) = try makePipe()
            try reading.setNonblocking(true)
            try poller.add(reading.number, .readable, token: token)
            readiness[id] = .newline(reading: reading)
            keeper.keep(.newline(id), reading)
            spawnPlan.environment.append("NOTIFY_FD=\(spawnPlan.descriptors.count)")
            spawnPlan.descriptors.append(writing.number)
            return writing
        case .systemdNotification?:
            // Abstract, because the unit may run as a user who cannot look into the state directory.
            let name = "@workspacekit-notify-\(String(randomUInt64(), radix: 16))"
            let socket = try LocalSocket.datagrams(at: name)
            try poller.add(socket.number, .readable, token: token)
            readiness[id] = .notifications(socket: socket)
            keeper.keep(.notifications(id), socket)
            spawnPlan.environment.append("NOTIFY_SOCKET=\(name)")
            if let watchdog = units[id].spec.watchdog {
                spawnPlan.environment.append("WATCHDOG_USEC=\(watchdog.nanoseconds / 1000)")
            }
            return nil
        }
    }

    private func forgetReadiness(_ id: Int) {
        keeper.discard(.newline(id))
        keeper.discard(.notifications(id))
    }

    /// Something was written to the unit's way to say that it is ready.
    func takeReadiness(_ id: Int) {
        guard let channel = readiness[id], let descriptor = channel.descriptor else { return }
        var buffer = [UInt8](repeating: 0, count: 4096)
        for _ in 0..<64 {
            var sender: LocalSocket.Sender?
            let outcome: IOOutcome
            if case .notifications = channel {
                (outcome, sender) = LocalSocket.receiveDatagram(descriptor.number, into: &buffer)
            } else {
                outcome = Kernel.read(descriptor.number, into: &buffer)
            }
            guard case .bytes(let count) = outcome else { return }
            switch channel {
            case .newline:
                if buffer[..<count].contains(10) { becameReady(id) }
                if count == 0 {
                    forgetReadiness(id)
                    return poller.remove(descriptor.number)
                }
            case .notifications:
                guard let sender, mayNotify(id, sender) else { continue }
                let notification = Notification(buffer[..<count])
                if let status = notification.status {
                    statusTexts[id] = status
                    save()
                }
                if let pid = notification.mainProcess { mainProcesses[id] = pid }
                if notification.isReady { becameReady(id) }
                if notification.lives {
                    perform { engine, now, actions in engine.handle(.watchdogFed(id), at: now, into: &actions) }
                }
            case .log: return
            }
        }
    }

    /// A line that the unit printed.
    func takeLine(_ id: Int, _ line: ArraySlice<UInt8>) {
        guard case .log(let matcher)? = readiness[id], matcher.matches(EscapeSequences.removed(from: line)) else {
            return
        }
        readiness[id] = nil
        becameReady(id)
    }

    /// The daemon that a unit's process has left in its place with a success, as it had said: it has to be ours by now, so
    /// that we learn of its end, and lead its process group, so that it can be signalled as any other.
    func successor(of id: Int, _ status: ExitStatus) -> Int32? {
        guard let pid = mainProcesses.removeValue(forKey: id), status.isSuccess, case .running = engine.states[id],
            processGroup(of: pid) == pid, children(of: CurrentProcess.id).contains(pid)
        else { return nil }
        return pid
    }

    private func becameReady(_ id: Int) {
        perform { engine, now, actions in engine.handle(.notifiedReady(id), at: now, into: &actions) }
    }
}
