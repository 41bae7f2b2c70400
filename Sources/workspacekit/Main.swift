import Glibc
import Kernel
import Ring
import Slirp

@main
struct Main {
    static func main() {
        let arguments = CommandLine.arguments
        switch arguments.dropFirst().first {
        case "ring1": exit(Int32(Ring1.main()))
        case "slirp": exit(Int32(SlirpProcess.main(channel: 3)))
        case "ring2": exit(Int32(Ring2.main()))
        case "supervise":
            let pid = try! spawn(SpawnPlan(path: "/bin/sh", arguments: ["sh"] + arguments.dropFirst(2), environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], descriptors: [0,1,2]))
            while true { if case .ended(let p, let s) = reap(), p == pid { exit(Int32(s.code)) }; pause(.milliseconds(1)) }
        default: break
        }
        let (a, b) = try! Channel.pair()
        let c = try! makeMemoryFile("config", holding: [])
        try! Files.makeDirectories("/tmp/wk/rings")
        var plan = RingPlan(network: .sandbox, stagingDirectory: "/tmp/wk/rings", hostName: "ws", supervisor: ["supervise"] + arguments.dropFirst(), stopGrace: .seconds(7))
        plan.link = LinkPlan(addresses: [Subnet("10.0.2.100/24")!, Subnet("fd00::100/64")!], gateways: [IPAddress("10.0.2.2")!, IPAddress("fd00::2")!])
        plan.resolvConf = "nameserver 10.0.2.3\n"
        plan.hosts = "127.0.0.1 localhost\n"
        do {
            let t0 = MonotonicInstant.now
            let ring = try Ring0.start(plan, configuration: c, report: b.descriptor) { print("note", $0) }
            let (sa, sb) = try Channel.pair()
            var sp = SpawnPlan(path: "/proc/self/exe", arguments: ["workspacekit", "slirp"], environment: [], descriptors: [0,1,2,sb.descriptor.number])
            sp.deathSignal = .kill
            _ = try spawn(sp)
            let link = ring.link!
            let conf = SlirpConfiguration(layout: NetworkLayout(), mtu: 1500, forwards: [8080], nameServers: [IPAddress("198.18.0.1")!], loopbackExceptions: [], checksumOffload: link.checksum, segmentationOffload: link.tso, datagramOffload: link.uso)
            try sa.send(conf.message(tap: link.tap, listeners: link.listeners, table: try makeMemoryFile("flows", holding: [])))
            print(try sa.receive(within: .seconds(5))!.kind)
            try ring.awaitReady { print("note", $0) }
            print(MonotonicInstant.now - t0, ring.idMap, ring.link!.tso, ring.link!.uso)
            try ring.go()
            _ = a
            while true { if case .ended(let p, let s) = reap(), p == ring.pid { print(s); exit(Int32(s.code)) }; pause(.milliseconds(1)) }
        } catch { print(error); exit(71) }
    }
}
