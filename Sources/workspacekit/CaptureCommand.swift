internal import ArgumentParser
internal import Control
internal import Kernel
internal import Slirp
internal import SystemPackage

extension Net {
    struct Capture: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show or record what passes the link, both ways.",
            discussion: """
                FILTER is pcap-filter(7)'s language in small: tcp, udp, icmp, icmp6, arp, ip, ip6, host ADDRESS, net NETWORK, \
                port NUMBER, src and dst before these, and, or, not, parentheses. The file is pcapng, which Wireshark, tshark \
                and tcpdump read. Superpackets are one packet. It ends with Ctrl-C, after COUNT, or with the workspace.

                  workspacekit net capture
                  workspacekit net capture port 53
                  workspacekit net capture -w trace.pcapng "tcp port 443 and not host 10.0.2.3"
                  workspacekit net capture -w - | tshark -r -
                """)
        @OptionGroup var state: StateOption
        @Option(name: [.customShort("w"), .long], help: "Write pcapng to this file; - for standard output.") var write:
            String?
        @Option(name: .shortAndLong, help: "End after so many packets.") var count: Int?
        @Option(help: "Keep so many bytes of each packet.") var snap = 65_535
        @Argument(help: "Which packets.") var filter: [String] = []

        func validate() throws {
            do throws(CaptureFilter.SyntaxError) { _ = try CaptureFilter(filter.joined(separator: " ")) } catch {
                throw ValidationError("the filter cannot be understood: \(error)")
            }
            if let count, count < 1 { throw ValidationError("--count needs a number from 1") }
            if snap < 14 { throw ValidationError("--snap needs a number from 14") }
        }

        func run() throws {
            ignore(.pipe)
            guard let wanted = try? CaptureFilter(filter.joined(separator: " ")) else { return }
            let client = connect(state.directory)
            let answer = require(client.ask(ControlRequest(.netCapture)))
            guard let socket = client.connection.received.popLast(), let name = answer.text else {
                fail("the workspace sent no packet socket", ExitCodes.internalError)
            }
            var file: Descriptor?
            if let write, write != "-" {
                do {
                    try Files.create(write, [], mode: 0o600)
                    file = try Files.openForAppending(write, mode: 0o600)
                } catch { fail("\(error)", ExitCodes.usage) }
            }
            let isBinary = write != nil
            let output = file?.number ?? 1
            var capture = try PacketCapture(socket)
            let signals = try SignalReader([.interrupt, .terminate, .hangup])
            let poller = try Poller()
            try poller.add(socket.number, .readable, token: 0)
            try poller.add(signals.number, .readable, token: 1)
            var pending = isBinary ? Pcapng.header(interface: name) : []
            var buffer = [UInt8](repeating: 0, count: 66_048)
            var shown = 0
            var goesOn = true
            while goesOn {
                for index in 0..<(try poller.wait(nil)) {
                    let event = poller.event(index)
                    if event.token == 1 || event.readiness.contains(.failed) { goesOn = false }
                }
                // What was heard before the end belongs to it.
                while shown < count ?? .max, let (frame, kept) = capture.next(into: &buffer) {
                    let summary = PacketSummary(buffer[..<kept])
                    guard wanted.matches(summary) else { continue }
                    shown += 1
                    let bytes =
                        isBinary
                        ? Pcapng.packet(
                            buffer[..<min(kept, snap)], length: frame.length, time: frame.time,
                            isOutgoing: frame.isOutgoing)
                        : Array(line(frame, summary).utf8)
                    pending += bytes
                    if pending.count > 1 << 20, !put(&pending, output) { break }
                }
                if !put(&pending, output) { goesOn = false }
                if shown >= count ?? .max { goesOn = false }
            }
            let (frames, dropped) = capture.statistics()
            if isBinary {
                let now = UInt64(clamping: WallInstant.now.nanoseconds)
                pending = Pcapng.statistics(frames: frames, dropped: dropped, time: now)
                _ = put(&pending, output)
            }
            say("\(shown) of \(frames) packets captured, \(dropped) lost for want of room")
        }

        /// Writes what is pending; false when whoever should take it is gone, or the disk is full.
        private func put(_ pending: inout [UInt8], _ output: Int32) -> Bool {
            var done = 0
            while done < pending.count {
                guard case .bytes(let count) = Kernel.write(output, pending, from: done), count > 0 else {
                    return false
                }
                done += count
            }
            pending.removeAll(keepingCapacity: true)
            return true
        }

        private func line(_ frame: PacketCapture.Frame, _ summary: PacketSummary) -> String {
            let time = WallInstant(nanoseconds: Int64(clamping: frame.time))
            let micros = "\(1000 + frame.time / 1000 % 1000)".dropFirst()
            let clock = time.description.dropFirst(11).dropLast()
            return "\(clock)\(micros) \(frame.isOutgoing ? "out" : "in ") \(summary.text)\n"
        }
    }
}
