internal import Kernel

/// What the workspace sends, on its way to the outside socket: straight from the frame, or by the two bounded detours of
/// the pool: the spill (the socket was full) and the out-of-order queue (a segment came too early).
extension Forwarder {
    /// Moves payload that is next in order from the incoming block to the socket, the rest to the spill.
    /// False when the flow is gone.
    @inline(__always)
    mutating func deliver(_ index: Int, at offset: Int, count: Int) -> Bool {
        var sent = 0
        table[index].bytesUp += UInt64(count)
        if table[index].tcp.spilled == 0 {
            switch incoming.send(table[index].socket, at: offset, count: count) {
            case .bytes(let n): sent = n
            case .wouldBlock: break
            case .failed:
                // The outside has closed: EPIPE, ECONNRESET. The truth is a reset.
                close(index, resetOutside: false, resetGuest: true)
                return false
            }
        }
        table[index].tcp.accepted(sent)
        if sent < count { spill(index, from: offset + sent, count: count - sent) }
        if table[index].gapHead != 0 { return closeGaps(index) }
        return true
    }

    /// Keeps bytes that the socket did not take. They were promised room by the window, so they are not dropped.
    mutating func spill(_ index: Int, from offset: Int, count: Int) {
        var done = 0
        while done < count {
            var tail = table[index].spillTail
            let fitted =
                tail == 0 ? 0 : pool.append(tail, from: incoming, at: offset + done, count: count - done)
            if fitted == 0 {
                guard let fresh = pool.allocate() else {
                    table.counters.poolExhausted += 1
                    break  // not accepted, so not acknowledged: the workspace sends it again
                }
                linkSpill(index, fresh)
                tail = fresh
                continue
            }
            done += fitted
        }
        table[index].tcp.spilled += Int32(done)
        table[index].tcp.accepted(done)
    }

    mutating func linkSpill(_ index: Int, _ chunk: UInt32) {
        pool[chunk].next = 0
        if table[index].spillTail != 0 {
            pool[table[index].spillTail].next = chunk
        } else {
            table[index].spillHead = chunk
        }
        table[index].spillTail = chunk
    }

    /// The socket has room: the spill goes first. False when the flow is gone.
    mutating func flushSpill(_ index: Int) -> Bool {
        while table[index].spillHead != 0 {
            let chunk = table[index].spillHead
            let count = Int(pool[chunk].count)
            switch pool.memory.send(table[index].socket, at: pool.offset(chunk) + Int(pool[chunk].start), count: count)
            {
            case .bytes(let n):
                table[index].tcp.spilled -= Int32(n)
                table[index].tcp.marks.insert(.ackOwed)
                if n < count {
                    pool[chunk].start += UInt32(n)
                    pool[chunk].count -= UInt32(n)
                    return true
                }
                table[index].spillHead = pool[chunk].next
                if table[index].spillHead == 0 { table[index].spillTail = 0 }
                pool.free(chunk)
            case .wouldBlock: return true
            case .failed:
                close(index, resetOutside: false, resetGuest: true)
                return false
            }
        }
        passFinishOn(index)
        return true
    }

    /// Forgets what the socket did not take.
    mutating func dropSpill(_ index: Int) {
        while table[index].spillHead != 0 {
            let chunk = table[index].spillHead
            table[index].spillHead = pool[chunk].next
            pool.free(chunk)
        }
        table[index].spillTail = 0
        table[index].tcp.spilled = 0
    }

    /// The workspace's FIN becomes the socket's, once everything before it is in the socket.
    mutating func passFinishOn(_ index: Int) {
        let marks = table[index].tcp.marks
        guard marks.contains(.peerFinished), !marks.contains(.finishPassedOn), table[index].tcp.spilled == 0 else {
            return
        }
        if marks.contains(.inspected), nameStreams[index]?.isConnecting == true { return }
        InternetSocket.finishWriting(table[index].socket)
        table[index].tcp.marks.formUnion([.finishPassedOn, .ackOwed])
    }

    // MARK: the out-of-order queue

    /// Keeps a segment that came too early, sorted, without overlap.
    mutating func storeGap(_ index: Int, sequence: SequenceNumber, at offset: Int, count: Int) {
        table.counters.outOfOrder += 1
        var sequence = sequence
        var offset = offset
        var count = count
        var previous: UInt32 = 0
        var next = table[index].gapHead
        while next != 0, pool[next].sequence <= sequence {
            previous = next
            next = pool[next].next
        }
        if previous != 0 {
            let known = pool[previous].sequence + Int(pool[previous].count) - sequence
            if known > 0 {
                guard known < count else { return }
                sequence += known
                offset += known
                count -= known
            }
        }
        if next != 0 { count = min(count, pool[next].sequence - sequence) }
        guard count > 0 else { return }
        if previous != 0, pool[previous].sequence + Int(pool[previous].count) == sequence {
            let fitted = pool.append(previous, from: incoming, at: offset, count: count)
            if fitted == count { return }
            sequence += fitted
            offset += fitted
            count -= fitted
        }
        guard table[index].gapChunks < 128, let fresh = pool.allocate() else {
            table.counters.poolExhausted += 1
            return
        }
        pool[fresh].sequence = sequence
        _ = pool.append(fresh, from: incoming, at: offset, count: count)
        pool[fresh].next = next
        if previous != 0 { pool[previous].next = fresh } else { table[index].gapHead = fresh }
        table[index].gapChunks += 1
    }

    /// What has become next in order goes to the socket by way of the spill. False when the flow is gone.
    mutating func closeGaps(_ index: Int) -> Bool {
        var moved = false
        while table[index].gapHead != 0 {
            let chunk = table[index].gapHead
            let known = table[index].tcp.receiveNext - pool[chunk].sequence
            guard known >= 0 else { break }
            table[index].gapHead = pool[chunk].next
            table[index].gapChunks -= 1
            guard known < Int(pool[chunk].count) else {
                pool.free(chunk)
                continue
            }
            pool[chunk].start += UInt32(known)
            pool[chunk].count -= UInt32(known)
            let count = Int(pool[chunk].count)
            linkSpill(index, chunk)
            table[index].tcp.spilled += Int32(count)
            table[index].tcp.accepted(count)
            moved = true
        }
        return moved ? flushSpill(index) : true
    }

    /// SACK blocks for what is stored: the one with the latest segment first (RFC 2018, 4).
    func sackBlocks(_ index: Int) -> SACKBlocks {
        var blocks = SACKBlocks()
        guard table[index].gapHead != 0, table[index].tcp.marks.contains(.sack) else { return blocks }
        let latest = table[index].tcp.latestGap
        for wantsLatest in [true, false] {
            var chunk = table[index].gapHead
            while chunk != 0, blocks.count < 3 {
                let left = pool[chunk].sequence
                var right = left + Int(pool[chunk].count)
                chunk = pool[chunk].next
                while chunk != 0, pool[chunk].sequence == right {
                    right += Int(pool[chunk].count)
                    chunk = pool[chunk].next
                }
                let isFinish = table[index].tcp.marks.contains(.finishKnown) && table[index].tcp.peerFinish == right
                if isFinish { right += 1 }
                if (left <= latest && latest < right) == wantsLatest {
                    blocks.append(SACKBlock(left: left, right: right))
                }
            }
        }
        return blocks
    }
}
