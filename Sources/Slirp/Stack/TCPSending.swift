internal import Kernel

/// The way down: what may be sent, what must be sent again, and how long to wait.
extension TCPState {
    /// How many bytes may be sent at sendNext now, before segmentation; 0 when the window is full.
    @inline(__always)
    var sendable: Int {
        let room = Int(sendWindow) - (sendNext - sendUnacknowledged)
        // No small pieces while something is under way (RFC 9293, 3.8.6.2.1).
        return room >= Int(maximumSegment) || sendNext == sendUnacknowledged ? max(0, room) : 0
    }

    /// So many bytes went out at sendNext.
    @inline(__always)
    mutating func sent(_ count: Int, at now: MonotonicInstant) {
        if !marks.contains(.timing), sendNext == sendMaximum, retries == 0 {
            marks.insert(.timing)
            timedSequence = sendNext + count
            timedAt = now.nanoseconds
        }
        sendNext += count
        if sendMaximum < sendNext { sendMaximum = sendNext }
    }

    /// The length of the hole at sendUnacknowledged, at most `limit`.
    func hole(limit: Int) -> Int {
        var length = min(limit, sendNext - sendUnacknowledged)
        var bounded = false
        for index in 0..<Int(sack.count) {
            let distance = sack[index].left - sendUnacknowledged
            if distance > 0 {
                length = min(length, distance)
                bounded = true
            }
        }
        return bounded ? length : min(length, Int(maximumSegment))
    }

    /// The retransmission timer fired: go back to the first unacknowledged byte. False when it fired too often.
    mutating func timedOut() -> Bool {
        let limit = phase == .established ? Self.dataRetries : Self.synRetries
        guard retries < limit else { return false }
        retries += 1
        goBack()
        marks.subtract([.timing, .recovering])
        sack = SACKBlocks()
        return true
    }

    /// What is sent next is what the workspace has not acknowledged, our FIN too.
    mutating func goBack() {
        sendNext = sendUnacknowledged
        if !marks.contains(.finAcknowledged) { marks.remove(.finSent) }
    }

    /// RFC 6298, 2.
    mutating func takeSample(_ sample: Int64) {
        marks.remove(.timing)
        if smoothedRoundTrip == 0 {
            smoothedRoundTrip = max(1, sample)
            roundTripVariation = sample / 2
        } else {
            roundTripVariation += (abs(smoothedRoundTrip - sample) - roundTripVariation) / 4
            smoothedRoundTrip = max(1, smoothedRoundTrip + (sample - smoothedRoundTrip) / 8)
        }
    }

    /// How long to wait for an acknowledgement now, backed off.
    var retransmissionTimeout: Int64 {
        let base = smoothedRoundTrip == 0 ? 1_000_000_000 : smoothedRoundTrip + 4 * roundTripVariation
        let clamped = max(base, Self.minimumTimeout)
        return min(clamped << Int64(min(retries, 16)), Self.maximumTimeout)
    }

    /// Whether the workspace is still there, for a connection on which nothing was said for so long.
    mutating func ask(afterIdle idle: Duration) -> IdleVerdict {
        guard phase == .established, idle >= Self.idleTime, !isAwaitingAcknowledgement else { return .fine }
        guard idleProbes < Self.idleProbeLimit else { return .gone }
        idleProbes += 1
        return .ask
    }
    enum IdleVerdict: Sendable {
        case fine
        /// Send a segment that asks for an answer.
        case ask
        /// It has not answered.
        case gone
    }

    /// Something of ours waits for an acknowledgement.
    @inline(__always)
    var isAwaitingAcknowledgement: Bool {
        sendUnacknowledged < sendMaximum || phase == .synReceived || phase == .synSent
    }

    /// Both directions are closed and everything is acknowledged: nothing more can come.
    var isFinished: Bool { marks.isSuperset(of: [.finishPassedOn, .finAcknowledged]) }
}
