public import Kernel
internal import SystemPackage

/// Why a stage could not be set up: where, what the kernel said, and what the user can do.
public struct StageFailure: Error, Hashable, Sendable, CustomStringConvertible {
    /// ring0, ring1 or ring2.
    public let stage: String
    /// The call that failed.
    public let underlying: KernelError
    /// What to do about it; empty when we know nothing better than the reason itself.
    public let cure: String

    init(stage: String, underlying: KernelError, cure: String) {
        self.stage = stage
        self.underlying = underlying
        self.cure = cure
    }

    /// A failure with the cure that fits the call and the reason.
    init(_ stage: String, _ error: KernelError) {
        self.init(stage: stage, underlying: error, cure: Self.cure(for: error))
    }

    /// `ring1: cannot CALL SUBJECT: reason (cure)`.
    public var description: String { "\(stage): \(underlying)\(cure.isEmpty ? "" : " (\(cure))")" }

    private static func cure(for error: KernelError) -> String {
        let call = error.call
        switch error.errno {
        case .notPermitted, .permissionDenied, .noSpace:
            if call == "make namespaces" {
                return
                    "this container may not make user namespaces: run it with --security-opt seccomp=unconfined or a "
                    + "profile that allows unshare, and see the sysctls user.max_user_namespaces, "
                    + "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"
            }
            if call.hasPrefix("mount proc") {
                return "the container's /proc is masked: run it with --security-opt systempaths=unconfined, "
                    + "or procMount: Unmasked"
            }
            if call == "open", error.subject == "/dev/net/tun" {
                return "/dev/net/tun is there but may not be opened: give the container the device with mode 0666, "
                    + "or choose --network host"
            }
            if call.hasPrefix("mount") || call.hasPrefix("bind") || call == "pivot_root to" {
                return
                    "mounting is forbidden here: run the container with a seccomp profile that allows mount, umount2 "
                    + "and pivot_root, and with AppArmor unconfined"
            }
            if error.subject.hasSuffix("_map") {
                return
                    "id maps need CAP_SETUID, CAP_SETGID and, to map root, CAP_SETFCAP; or start as an ordinary user "
                    + "with a range in /etc/subuid and /etc/subgid"
            }
            return ""
        case .noSuchFileOrDirectory, .noSuchAddressOrDevice, Errno(rawValue: 19):
            if call == "open", error.subject == "/dev/net/tun" {
                return "run the container with --device /dev/net/tun, or leave the link to us (network.link: auto)"
            }
            return ""
        case .invalidArgument where call == "make namespaces":
            return "the kernel lacks a namespace kind, or the process has more than one thread"
        default: return ""
        }
    }
}
