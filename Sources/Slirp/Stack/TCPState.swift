internal import Kernel

/// # Theory of operation
///
/// The workspace's TCP speaks to this state; the far end is an ordinary socket of the kernel's. So it is half a TCP:
/// congestion control towards the outside is the kernel's, and payload is never kept here.
///
///     workspace ──segments──▶ receive() ──▶ the driver sends to the socket, then accepted()    (up)
///     workspace ◀──segments── transmit plan ◀── the driver peeks from the socket, then sent()  (down)
///
/// Names as in RFC 9293, from our side: `receiveNext` is the next byte we expect from the workspace, `sendUnacknowledged`
/// the first one of ours that it has not acknowledged.
///
///     up:    |acknowledged|  spilled  |receiveNext ... out of order ...|  windowEdge
///            bytes in the spill have arrived but the socket did not take them: they are not acknowledged, so that a
///            forwarder that dies loses nothing. The right edge of the window never moves back.
///     down:  |discarded| sendUnacknowledged .. sendNext | unread |      in the socket's receive queue
///            the queue is the retransmission buffer; an acknowledgement discards from its head. `sendNext -
///            sendUnacknowledged` is the socket's peek offset. A retransmission timeout goes back to
///            sendUnacknowledged; a duplicate acknowledgement fills the first hole (the tap never reorders).
///
/// Phases:   opening ── outside connected ──▶ synReceived ── ACK ──▶ established
///           synSent ── SYN-ACK ────────────────────────────────────▶ established        (inbound forwards)
///           established ── both FINs delivered and acknowledged, or RST ──▶ the flow is freed
///
/// Everything here is arithmetic on plain data: no clock, no socket, no allocation.
struct TCPState: Sendable {
    enum Phase: UInt8, Sendable {
        /// The workspace sent SYN; the outside connect is under way.
        case opening
        /// The outside is connected, our SYN-ACK is out.
        case synReceived
        /// An inbound connection: our SYN is out.
        case synSent
        /// Data may flow; the marks say which half is closed.
        case established
    }

    /// What has happened besides.
    struct Marks: OptionSet, Sendable {
        let rawValue: UInt32
        /// The workspace's FIN arrived in order.
        static let peerFinished = Marks(rawValue: 1)
        /// ... and was passed on to the outside socket.
        static let finishPassedOn = Marks(rawValue: 2)
        /// The outside socket is at its end.
        static let outsideEnded = Marks(rawValue: 4)
        /// Our FIN is out (its sequence number lies before sendNext).
        static let finSent = Marks(rawValue: 8)
        /// Our FIN is acknowledged.
        static let finAcknowledged = Marks(rawValue: 16)
        /// The workspace understands SACK.
        static let sack = Marks(rawValue: 32)
        /// The workspace scales windows, so we may too.
        static let scaling = Marks(rawValue: 64)
        /// A hole is being filled; ends at `recoveryPoint`.
        static let recovering = Marks(rawValue: 128)
        /// An ACK is owed at the end of the batch.
        static let ackOwed = Marks(rawValue: 256)
        /// The window last told was too small for a segment.
        static let windowClosed = Marks(rawValue: 512)
        /// A round-trip sample is being timed.
        static let timing = Marks(rawValue: 1024)
        /// The kernel was asked to report room in the outside socket's send buffer.
        static let roomAsked = Marks(rawValue: 2048)
        /// The outside opened it.
        static let fromOutside = Marks(rawValue: 4096)
        /// It leads to the name server: what passes is looked into (``NameStream``).
        static let inspected = Marks(rawValue: 8192)
        /// Both sides send timestamps (RFC 7323).
        static let timestamps = Marks(rawValue: 16384)
        /// The workspace asks whether the far end is alive, and the outside socket does so too.
        static let keepsAlive = Marks(rawValue: 32768)
        /// The workspace's FIN has come, in order or early; it stands at `peerFinish`.
        static let finishKnown = Marks(rawValue: 65536)
    }

    var phase: Phase
    var marks: Marks = []

    // Up.
    var receiveNext: SequenceNumber
    /// The acknowledgement number last sent.
    var acknowledged: SequenceNumber
    /// The window's right edge last told.
    var windowEdge: SequenceNumber
    /// Bytes that arrived in order but are not in the socket yet.
    var spilled: Int32 = 0
    /// Left edge of the latest out-of-order segment: it leads the SACK blocks (RFC 2018, 4).
    var latestGap = SequenceNumber(0)
    /// Where the workspace's FIN stands, with `finishKnown`.
    var peerFinish = SequenceNumber(0)
    /// Average payload of a segment, for the bound that the link's ring sets.
    var segmentAverage: Int32 = 1448

    // Down.
    var sendUnacknowledged: SequenceNumber
    var sendNext: SequenceNumber
    /// The highest sendNext ever: where an acknowledgement may reach.
    var sendMaximum: SequenceNumber
    /// The window the workspace granted, scaled, from sendUnacknowledged on.
    var sendWindow: UInt32
    var sendScale: UInt8 = 0
    var maximumSegment: UInt16
    var duplicates: UInt8 = 0
    var retries: UInt8 = 0
    var recoveryPoint = SequenceNumber(0)
    /// Where our FIN stands, with `outsideEnded`.
    var finSequence = SequenceNumber(0)
    /// What the workspace last reported to have beyond a hole.
    var sack = SACKBlocks()

    // Round-trip time (RFC 6298), in nanoseconds; 0: no sample yet.
    var smoothedRoundTrip: Int64 = 0
    var roundTripVariation: Int64 = 0
    var timedSequence = SequenceNumber(0)
    var timedAt: Int64 = 0

    // Timestamps (RFC 7323): what the workspace last sent in order (TS.Recent) and when, and where our clock starts.
    var recentTimestamp: UInt32 = 0
    var recentTimestampAt: Int64 = 0
    var timestampOffset: UInt32 = 0
    /// Questions sent to a workspace that says nothing.
    var idleProbes: UInt8 = 0

    /// The shift of the windows we tell: 2^8 lets 16 MiB be told.
    static let scale: UInt8 = 8
    static let minimumTimeout: Int64 = 200_000_000
    static let maximumTimeout: Int64 = 60_000_000_000
    static let synRetries: UInt8 = 5
    static let dataRetries: UInt8 = 12
    /// RFC 7323, 5.5: a timestamp this old says nothing any more.
    static let timestampLifetime: Int64 = 24 * 86_400 * 1_000_000_000
    /// As Linux asks (tcp(7)): after two hours, nine times, 75 s apart.
    static let idleTime = Duration.seconds(7200), idleProbeInterval = Duration.seconds(75)
    static let idleProbeLimit: UInt8 = 9

    /// For a SYN of the workspace's. `mtuSegment` is the largest payload that fits the link's MTU.
    init(answering syn: TCPHeader, initialSequence: SequenceNumber, mtuSegment: Int, timestampOffset: UInt32 = 0) {
        phase = .opening
        self.timestampOffset = timestampOffset
        receiveNext = syn.sequence + 1
        acknowledged = receiveNext
        windowEdge = receiveNext
        sendUnacknowledged = initialSequence
        sendNext = initialSequence
        sendMaximum = initialSequence
        sendWindow = UInt32(syn.window)
        maximumSegment = 536
        takeOptions(syn, mtuSegment: mtuSegment)
    }

    /// For a connection from outside: our SYN is to be sent.
    init(opening initialSequence: SequenceNumber, mtuSegment: Int, timestampOffset: UInt32 = 0) {
        phase = .synSent
        self.timestampOffset = timestampOffset
        marks = .fromOutside
        receiveNext = SequenceNumber(0)
        acknowledged = receiveNext
        windowEdge = receiveNext
        sendUnacknowledged = initialSequence
        sendNext = initialSequence
        sendMaximum = initialSequence
        sendWindow = 0
        maximumSegment = UInt16(clamping: mtuSegment)
    }

    /// For flows of other protocols.
    static var unused: TCPState { TCPState(opening: SequenceNumber(0), mtuSegment: 0) }

    private mutating func takeOptions(_ syn: TCPHeader, mtuSegment: Int) {
        // RFC 9293, 3.7.1: 536 where the option is missing; a floor, so that no peer can ask for one byte a segment.
        maximumSegment = UInt16(clamping: max(min(Int(syn.maximumSegment ?? 536), mtuSegment), 48))
        if let windowScale = syn.windowScale {
            marks.insert(.scaling)
            sendScale = windowScale
        }
        if syn.sackPermitted { marks.insert(.sack) }
        if let timestamps = syn.timestamps {
            marks.insert(.timestamps)
            recentTimestamp = timestamps.value
            // RFC 6691: the option takes its room from the payload.
            maximumSegment -= UInt16(TCPTimestamps.length)
        }
    }

    /// Length of the header of a segment with payload.
    @inline(__always)
    var headerLength: Int { marks.contains(.timestamps) ? 20 + TCPTimestamps.length : 20 }

    /// What our segments say: a clock of milliseconds, and the workspace's own.
    @inline(__always)
    func timestamps(at now: MonotonicInstant) -> TCPTimestamps {
        TCPTimestamps(
            value: UInt32(truncatingIfNeeded: now.nanoseconds / 1_000_000) &+ timestampOffset, echo: recentTimestamp)
    }

    // MARK: what to put into segments

    /// What is acknowledged: everything but the spill, and the FIN only once the spill is empty.
    var acknowledgement: SequenceNumber {
        spilled > 0 ? receiveNext + -(Int(spilled) + (marks.contains(.peerFinished) ? 1 : 0)) : receiveNext
    }

    /// The window field for the edge told last.
    var windowField: UInt16 {
        let window = max(0, windowEdge - acknowledgement)
        return UInt16(clamping: marks.contains(.scaling) ? window >> Int(Self.scale) : window)
    }

    /// Moves the right edge to what the socket can take, never back.
    /// - Parameters:
    ///   - size, queued: the outside socket's send buffer and its use, in bytes of memory.
    ///   - ringFrames: frames that the link holds for this flow.
    ///   - linkWindow: bytes that it may have under way on the link.
    /// - Returns: whether the edge moved by enough to be worth telling.
    mutating func openWindow(size: Int, queued: Int, ringFrames: Int, linkWindow: Int = .max) -> Bool {
        var room = size / 16 * 15 - queued
        room = min(room, linkWindow)
        room = min(room, ringFrames * max(Int(segmentAverage), 536), marks.contains(.scaling) ? 0xffff << 8 : 0xffff)
        let old = windowEdge
        let new = acknowledgement + max(0, room)
        // Silly window avoidance (RFC 9293, 3.8.6.2.2): small steps are not told. What scaling cannot say is not either.
        if new - old >= min(Int(maximumSegment), max(room / 2, 1)) { windowEdge = new }
        let told = max(0, old - acknowledgement)
        marks.set(.windowClosed, windowEdge - acknowledgement < Int(maximumSegment))
        return windowEdge - old >= max(2 * Int(maximumSegment), told / 2)
    }

    /// Whether the window is so small against the buffer that the kernel must be asked for room.
    func wantsRoom(size: Int) -> Bool { windowEdge - acknowledgement < size / 3 }

    // MARK: up

    /// What a segment asks of the driver.
    struct Received: Sendable {
        enum Verdict: Sendable {
            /// Nothing more to do.
            case done
            /// Not for this connection: answer with this flow's own state (RFC 5961) and drop it.
            case challenge
            /// The connection is over by the workspace's RST.
            case reset
        }
        enum Payload: Sendable {
            case none
            /// `skip` bytes are known already; the rest is next in order.
            case inOrder(skip: Int)
            /// It begins this far behind the byte expected.
            case outOfOrder(ahead: Int)
        }
        var verdict = Verdict.done
        var payload = Payload.none
        /// The segment ends with a FIN that is in order once the payload is accepted.
        var finish = false
        /// So many bytes of the outside socket's queue are acknowledged.
        var discard = 0
        /// The handshake is complete with this segment.
        var opened = false
        /// Fill the hole at sendUnacknowledged.
        var retransmit = false
        /// The window or the acknowledgement moved: more may be sent.
        var mayTransmit = false
        /// The workspace asks whether we are there (RFC 9293, 3.8.4).
        var isProbe = false
    }

    /// Takes a segment's header; `count` is the length of its payload.
    @inline(__always)
    mutating func receive(_ segment: TCPHeader, count: Int, at now: MonotonicInstant) -> Received {
        var result = Received()
        if phase == .opening {
            // A retransmitted SYN waits like the first; a reset ends the attempt.
            if segment.flags.contains(.rst) { result.verdict = .reset }
            return result
        }
        if phase == .synSent { return receiveInSynSent(segment) }

        // RFC 9293, 3.10.7.4, in its order: sequence, RST, SYN, ACK, data, FIN.
        let ahead = segment.sequence - receiveNext
        if marks.contains(.timestamps), let timestamps = segment.timestamps, !segment.flags.contains(.rst) {
            let isOld = TCPTimestamps.isOlder(timestamps.value, than: recentTimestamp)
            if isOld, now.nanoseconds - recentTimestampAt < Self.timestampLifetime {
                // A duplicate from long ago (PAWS; RFC 7323, 5.3).
                if count > 0 || !segment.flags.isDisjoint(with: [.syn, .fin]) { marks.insert(.ackOwed) }
                return result
            }
            if segment.sequence <= acknowledged, ahead + count >= -1, ahead <= 0 {
                recentTimestamp = timestamps.value
                recentTimestampAt = now.nanoseconds
            }
        }
        idleProbes = 0
        if segment.flags.contains(.rst) {
            if ahead == 0 || segment.sequence == acknowledgement {
                result.verdict = .reset
            } else if ahead > 0, segment.sequence < windowEdge {
                result.verdict = .challenge
            }
            return result
        }
        if segment.flags.contains(.syn) {
            guard phase == .synReceived, ahead == -1 else {
                result.verdict = .challenge
                return result
            }
            // A retransmitted SYN; or, where both opened at once, the workspace's answer to ours (RFC 9293, figure 8).
            if segment.flags.contains(.ack), takeAcknowledgement(segment, count: 0, at: now, &result) {
                sendWindow = UInt32(segment.window)
            }
            marks.insert(.ackOwed)
            return result
        }
        guard segment.flags.contains(.ack) else { return result }
        let length = count + (segment.flags.contains(.fin) ? 1 : 0)
        result.isProbe = ahead == -1 && count <= 1 && length == count && phase == .established
        // Wholly old (a retransmission, a keepalive, a window probe) or beyond the window: say where we are.
        if length > 0 ? ahead + length <= 0 || ahead >= max(windowEdge - receiveNext, 1) : ahead < 0 {
            marks.insert(.ackOwed)
            if length > 0, ahead + length > 0 { return result }
        }
        if !takeAcknowledgement(segment, count: count, at: now, &result) { return result }
        if count > 0 { takePayload(count: count, ahead: ahead, &result) }
        if segment.flags.contains(.fin), !marks.contains(.peerFinished), ahead + count >= 0 {
            // One that comes early is kept like the bytes before it (RFC 9293, 3.10.7.4).
            marks.formUnion([.finishKnown, .ackOwed])
            peerFinish = segment.sequence + count
            result.finish = ahead <= 0
        }
        return result
    }

    private mutating func receiveInSynSent(_ segment: TCPHeader) -> Received {
        var result = Received()
        let acknowledges = segment.flags.contains(.ack) && segment.acknowledgement == sendUnacknowledged + 1
        if segment.flags.contains(.rst) {
            if acknowledges { result.verdict = .reset }
            return result
        }
        guard segment.flags.contains(.syn), acknowledges || !segment.flags.contains(.ack) else { return result }
        let mtuSegment = Int(maximumSegment)
        takeOptions(segment, mtuSegment: mtuSegment)
        receiveNext = segment.sequence + 1
        acknowledged = receiveNext
        windowEdge = receiveNext
        sendWindow = UInt32(segment.window)
        guard acknowledges else {
            // The workspace opens the same connection at this moment.
            phase = .synReceived
            marks.insert(.ackOwed)
            return result
        }
        sendUnacknowledged += 1
        sendNext = sendUnacknowledged
        sendMaximum = sendNext
        phase = .established
        retries = 0
        marks.insert(.ackOwed)
        result.opened = true
        result.mayTransmit = true
        return result
    }

    /// The acknowledgement and window part; false when the segment is to be dropped.
    private mutating func takeAcknowledgement(
        _ segment: TCPHeader, count: Int, at now: MonotonicInstant, _ result: inout Received
    ) -> Bool {
        let advance = segment.acknowledgement - sendUnacknowledged
        if advance > sendMaximum - sendUnacknowledged {
            result.verdict = .challenge  // acknowledges what we never sent
            return false
        }
        let window = UInt32(segment.window) << UInt32(sendScale)
        if advance < 0 { return true }
        if advance > 0 {
            var data = advance
            if phase == .synReceived {
                phase = .established
                data -= 1
                result.opened = true
            }
            if marks.contains(.outsideEnded), segment.acknowledgement > finSequence {
                marks.formUnion([.finSent, .finAcknowledged])
                data -= 1
            }
            result.discard = max(0, data)
            sendUnacknowledged = segment.acknowledgement
            // After a retransmission only the echo tells which of the two was acknowledged (RFC 7323, 4.1).
            if retries > 0, marks.contains(.timestamps), let echo = segment.timestamps?.echo, echo != 0 {
                let elapsed = Int64(Int32(bitPattern: timestamps(at: now).value &- echo))
                if elapsed >= 0 { takeSample(max(1, elapsed) * 1_000_000) }
            }
            if sendNext < sendUnacknowledged { sendNext = sendUnacknowledged }
            retries = 0
            duplicates = 0
            if marks.contains(.timing), segment.acknowledgement >= timedSequence {
                takeSample(now.nanoseconds - timedAt)
            }
            sack = segment.sack
            if marks.contains(.recovering) {
                if sendUnacknowledged >= recoveryPoint {
                    marks.remove(.recovering)
                } else {
                    result.retransmit = true  // a partial acknowledgement: the next hole (RFC 6582, RFC 6675)
                }
            }
            result.mayTransmit = true
        } else if count == 0, sendNext > sendUnacknowledged, !segment.flags.contains(.fin),
            window == sendWindow || segment.sack.count > 0
        {
            takeDuplicate(segment, &result)
        }
        if window != sendWindow { result.mayTransmit = true }
        sendWindow = window
        return true
    }

    private mutating func takeDuplicate(_ segment: TCPHeader, _ result: inout Received) {
        duplicates = duplicates == .max ? .max : duplicates + 1
        sack = segment.sack
        // A SACK block is proof of a hole: the tap does not reorder. Without SACK, three duplicates (RFC 5681).
        let proven = sack.count > 0 && sack[0].right > sendUnacknowledged
        if !marks.contains(.recovering), proven || duplicates >= 3 {
            marks.insert(.recovering)
            recoveryPoint = sendNext
            result.retransmit = true
        }
    }

    private mutating func takePayload(count: Int, ahead: Int, _ result: inout Received) {
        segmentAverage += (Int32(truncatingIfNeeded: count) - segmentAverage) / 8
        guard !marks.contains(.peerFinished) else { return }
        if ahead > 0 {
            latestGap = receiveNext + ahead
            result.payload = .outOfOrder(ahead: ahead)
            marks.insert(.ackOwed)
        } else if ahead + count > 0 {
            result.payload = .inOrder(skip: -ahead)
        }
    }

    /// So many bytes in order were taken, into the socket or the spill.
    @inline(__always)
    mutating func accepted(_ count: Int) {
        receiveNext += count
        marks.insert(.ackOwed)
    }

    /// The FIN has come, and everything before it is taken.
    @inline(__always)
    var isFinishInOrder: Bool {
        marks.contains(.finishKnown) && !marks.contains(.peerFinished) && peerFinish == receiveNext
    }

    /// The FIN is in order and taken.
    mutating func acceptedFinish() {
        receiveNext += 1
        marks.formUnion([.peerFinished, .ackOwed])
    }
}

extension TCPState.Marks {
    mutating func set(_ mark: TCPState.Marks, _ on: Bool) { if on { insert(mark) } else { remove(mark) } }
}
