import Glibc
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

    @Test("under the filter, a socket of another family than IPv4 and IPv6 ends the process")
    func families() async {
        await #expect(processExitsWith: .signal(31)) {
            try enter()
            _ = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        }
        await #expect(processExitsWith: .signal(31)) {
            try enter()
            _ = socket(AF_INET, Int32(SOCK_RAW.rawValue), 0)
        }
    }

    @Test("under the filter, memory that can be executed ends the process")
    func code() async {
        await #expect(processExitsWith: .signal(31)) {
            try enter()
            _ = mmap(nil, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        }
    }

    @Test("under the filter, an ioctl other than the one for unread bytes ends the process")
    func devices() async {
        await #expect(processExitsWith: .exitCode(7)) {
            try enter()
            exit(InternetSocket.unread(0) >= 0 ? 7 : 1)
        }
        await #expect(processExitsWith: .signal(31)) {
            try enter()
            _ = ioctl(0, UInt(0x5451), 0)  // FIOCLEX
        }
    }

    @Test("under the filter, a signal to itself arrives")
    func signals() async {
        await #expect(processExitsWith: .signal(9)) {
            try enter()
            _ = raise(9)
        }
    }

    @Test("ring0's filter refuses calls that reach other processes, and lets it start programs")
    func ring0() async {
        await #expect(processExitsWith: .success) {
            try CurrentProcess.forbidNewPrivileges()
            try Sandbox.forbidReachingCalls()
            // Without the filter: EINVAL, since the file is no namespace.
            let file = try Files.open("/dev/null", flags: 0)
            do throws(KernelError) {
                try enterNamespace(.network, file)
            } catch { precondition(error.errno.rawValue == EPERM) }
            _ = try spawn(SpawnPlan(path: "/bin/true", arguments: ["true"], environment: [], descriptors: []))
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
