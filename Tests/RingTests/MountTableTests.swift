import Kernel
import Testing

@testable import Ring

@Suite("The table of mounts, as a private root reads it")
struct MountTableTests {
    private let table = MountTable(
        mountinfo: """
            22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw
            23 22 0:21 / /proc rw,nosuid,nodev,noexec - proc proc rw
            24 22 0:22 / /etc/hosts ro,relatime - ext4 /dev/vdb rw
            25 22 0:23 / /srv rw,nosuid - tmpfs tmpfs rw
            26 25 0:24 / /srv ro,nodev master:3 - tmpfs tmpfs rw
            27 22 0:25 / /a\\040b\\134c rw - tmpfs tmpfs rw
            nonsense
            """)

    @Test("finds what is mounted at a path and below it")
    func places() {
        #expect(table.hasMount(at: "/etc/hosts") && !table.hasMount(at: "/etc"))
        #expect(table.hasMount(below: "/etc") && !table.hasMount(below: "/et") && !table.hasMount(below: "/srv"))
        #expect(table.hasMount(below: "/") && table.hasMount(at: "/a b\\c"))
    }

    @Test("knows the flags of the mount that a path is in; of two at one place the upper one's")
    func flags() {
        #expect(table.mount(of: "/srv/x")?.flags == [.readOnly, .noDevices])
        #expect(table.mount(of: "/proc/1")?.flags == [.noSetuid, .noDevices, .noExecute])
        #expect(table.mount(of: "/srvx")?.path == "/" && table.mount(of: "/")?.flags == [])
    }
}
