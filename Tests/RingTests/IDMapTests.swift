import Kernel
import SystemPackage
import Testing

@testable import Ring

@Suite("IDMap")
struct IDMapTests {
    private var root: IDMap.Situation {
        IDMap.Situation(
            uid: 0, gid: 0, maySetIDs: true, mayMapRoot: true, uidMap: "0 0 4294967295\n", gidMap: "0 0 4294967295\n",
            subuid: "", subgid: "", userName: "root", hasHelpers: false)
    }

    @Test("root maps its whole range onto itself, but not so that it looks like the first user namespace")
    func direct() {
        let map = IDMap.choose(root)
        #expect(map.method == .direct)
        #expect(map.users == [IDRange(inside: 0, outside: 0, count: 4_294_967_294)])
    }

    @Test("in a container that lives in a user namespace, the range is the container's")
    func nested() {
        var situation = root
        situation.uidMap = "         0     100000      65536\n"
        situation.gidMap = situation.uidMap
        #expect(IDMap.choose(situation).users == [IDRange(inside: 0, outside: 0, count: 65536)])
    }

    @Test("without CAP_SETFCAP another user stands for root, and every id is mapped once")
    func substitute() {
        var situation = root
        situation.mayMapRoot = false
        situation.uidMap = "0 0 65536\n"
        situation.gidMap = "0 0 65536\n"
        let users = IDMap.choose(situation).users
        #expect(users.first == IDRange(inside: 0, outside: 1000, count: 1))
        #expect(!users.contains { $0.outside == 0 })
        var seen: Set<UInt32> = []
        for range in users {
            for offset in 0..<range.count { #expect(seen.insert(range.outside + offset).inserted) }
        }
        #expect(seen.count == 65535)
    }

    @Test("an ordinary user gets its subordinate range by name or number")
    func helper() {
        var situation = root
        situation.uid = 1000
        situation.gid = 1000
        situation.maySetIDs = false
        situation.userName = "dev"
        situation.hasHelpers = true
        situation.subuid = "# comment\nother:1:65536\ndev:100000:65536\n"
        situation.subgid = "1000:200000:65536\n"
        let map = IDMap.choose(situation)
        #expect(map.method == .helper)
        #expect(
            map.users == [.init(inside: 0, outside: 1000, count: 1), .init(inside: 1, outside: 100_000, count: 65536)])
        #expect(map.groups.last == IDRange(inside: 1, outside: 200_000, count: 65536))
    }

    @Test("without a range or the helpers only one id is mapped", arguments: [true, false])
    func single(hasHelpers: Bool) {
        var situation = root
        situation.uid = 1000
        situation.maySetIDs = false
        situation.userName = "dev"
        situation.hasHelpers = hasHelpers
        situation.subuid = hasHelpers ? "dev:1:10\nbroken\n:::\ndev:99999999999:65536\n" : "dev:100000:65536\n"
        #expect(IDMap.choose(situation).method == .single)
    }

    @Test("the workspace has all ids of the stages but the last, one to one")
    func workspaceIDs() {
        let map = IDMap(
            method: .helper,
            users: [IDRange(inside: 0, outside: 1000, count: 1), IDRange(inside: 1, outside: 100_000, count: 65536)],
            groups: [IDRange(inside: 0, outside: 1000, count: 1), IDRange(inside: 1, outside: 200_000, count: 65536)])
        #expect(map.workspace.stages == 65536)
        #expect(
            map.workspace.users == [
                IDRange(inside: 0, outside: 0, count: 1), IDRange(inside: 1, outside: 1, count: 65535),
            ])
        #expect(map.workspace.groups.last == IDRange(inside: 1, outside: 1, count: 65536))
    }

    @Test("a range of one id that is the last goes to the stages whole; a single id is everybody's")
    func fewIDs() {
        let two = [IDRange(inside: 5, outside: 9, count: 1), IDRange(inside: 0, outside: 7, count: 1)]
        let ids = IDMap(method: .direct, users: two, groups: two).workspace
        #expect(ids.stages == 5 && ids.users == [IDRange(inside: 0, outside: 0, count: 1)])
        let one = [IDRange(inside: 0, outside: 1000, count: 1)]
        let single = IDMap(method: .single, users: one, groups: one).workspace
        #expect(single.stages == nil && single.users == [IDRange(inside: 0, outside: 0, count: 1)])
    }
}

@Suite("RingPlan")
struct RingPlanTests {
    @Test("a plan survives the channel", arguments: [true, false])
    func roundTrip(hasLink: Bool) throws {
        var plan = RingPlan(
            network: hasLink ? .sandbox : .none, stagingDirectory: "/run/x y", hostName: "h",
            supervisor: ["supervise", ""], stopGrace: .milliseconds(7500))
        plan.resolvConf = "nameserver 10.0.2.3\n"
        plan.commands = hasLink ? "/run/x y/bin" : nil
        plan.filesystem.writable = hasLink ? ["/etc", "/run x"] : []
        plan.filesystem.root = hasLink ? .private : .shared
        plan.filesystem.readOnlyFiles = hasLink ? ["/etc/c onfig.yml"] : []
        plan.hosts = hasLink ? "" : nil
        plan.isolation = hasLink ? .sharedProcesses : .superviseOnly
        if hasLink {
            plan.workspaceIDs = WorkspaceIDs(
                users: [IDRange(inside: 0, outside: 0, count: 1), IDRange(inside: 1, outside: 1, count: 9)],
                groups: [IDRange(inside: 0, outside: 0, count: 7)], stages: 10)
            plan.link = LinkPlan(
                addresses: [Subnet(IPAddress(v4: 0x0a00_0264), 24)],
                routes: [
                    .default(via: IPAddress(v4: 0x0a00_0202)), Route(Subnet(IPAddress(v4: 0x0a01_0000), 16), via: nil),
                ])
        }
        let message = ChannelMessage("plan", plan.fields)
        let decoded = try #require(ChannelMessage(decoding: message.encoded))
        #expect(RingPlan(fields: decoded.fields) == plan)
    }

    @Test("bytes that are no message are refused, at every length")
    func malformed() {
        let bytes = ChannelMessage("plan", ["a", "bc"]).encoded
        for count in 0..<bytes.count {
            let message = ChannelMessage(decoding: bytes[..<count])
            #expect(message == nil || message?.fields.count ?? 9 < 2)
        }
        #expect(ChannelMessage(decoding: [255, 255, 255, 255, 1]) == nil)
        #expect(RingPlan(fields: ["sandbox", "/", "h", "full", "x", "y", "", "", "", "no link"]) == nil)
    }

    @Test("a failure names stage, call, reason and cure")
    func failureText() {
        let failure = StageFailure(
            "ring2", KernelError(call: "mount proc on", subject: "/r/proc", errno: .notPermitted))
        #expect(
            failure.description.hasPrefix(
                "ring2: cannot mount proc on /r/proc: Operation not permitted (the container's"))
        #expect(failure.description.contains("systempaths=unconfined") && failure.wayOut == .sharedProcesses)
    }
}
