import Kernel
import Testing

/// KERNEL: a call that the filter does not name ends the process with SIGSYS (seccomp(2), SECCOMP_RET_KILL_PROCESS).
@Suite("Sandbox")
struct SandboxTests {
    @Test("under the filter, opening a file ends the process")
    func open() async {
        await #expect(processExitsWith: .signal(31)) {
            try enter()
            _ = Files.text("/etc/hostname")
        }
    }

    @Test("under the filter, executing a program ends the process")
    func execute() async {
        await #expect(processExitsWith: .signal(31)) {
            try enter()
            _ = try spawn(SpawnPlan(path: "/bin/true", arguments: ["true"], environment: [], descriptors: []))
        }
    }

    @Test("under the filter, entering a namespace or changing credentials ends the process")
    func namespaces() async {
        await #expect(processExitsWith: .signal(31)) {
            try enter()
            try unshare(.user)
        }
        await #expect(processExitsWith: .signal(31)) {
            try enter()
            try CurrentProcess.setDeathSignal(.terminate)
        }
    }

    @Test("under the filter, sockets, memory and time still work")
    func allowed() async {
        await #expect(processExitsWith: .success) {
            try enter()
            guard case .success(let socket) = InternetSocket.make(.udp, v4: true) else {
                preconditionFailure("no socket")
            }
            InternetSocket.close(socket)
            _ = [UInt8](repeating: 1, count: 1 << 24)
            _ = MonotonicInstant.now
        }
    }
}

private func enter() throws {
    try CurrentProcess.forbidNewPrivileges()
    try Sandbox.allowForwarderCallsOnly()
}
