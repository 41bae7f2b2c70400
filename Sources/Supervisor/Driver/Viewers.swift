internal import Control
internal import Kernel
internal import SystemPackage

/// A client that shows a unit's terminal. What is printed goes to all of them; the first one has the terminal itself, to
/// type and to give it its size.
struct Viewer {
    let connection: Int32
    let unit: Int
    let isWriter: Bool
    /// Bytes that it was too slow for.
    var lost = 0
}

extension Supervisor {
    static let replayed = 16384

    func attach(_ request: ControlRequest, _ id: Int, _ connection: ServedConnection) {
        let name = units[id].spec.name
        guard units[id].hasTerminal else {
            connection.send(
                ControlResponse(
                    error: "\(name) has no terminal (tty: true gives it one): see \"workspacekit logs -f \(name)\""))
            return
        }
        guard let master = outputs[id], engine.states[id].pid != nil else {
            connection.send(ControlResponse(error: "\(name) does not run: see \"workspacekit logs \(name)\""))
            return
        }
        let isWriter = request.readOnly != true && !viewers.contains { $0.unit == id && $0.isWriter }
        var response = ControlResponse()
        response.isWriter = isWriter
        connection.send(response, descriptors: isWriter ? [master] : [])
        // What follows goes to the socket as it is, behind the answer.
        guard connection.isDrained, !connection.isBroken else { return }
        viewers.append(Viewer(connection: connection.descriptor.number, unit: id, isWriter: isWriter))
        guard request.replay == true else { return }
        let path = state.log(of: name)
        let size = Files.status(path)?.size ?? 0
        if let file = try? Files.open(path, flags: 0) {
            var bytes = [UInt8](repeating: 0, count: min(size, Self.replayed))
            if case .bytes(let count) = Kernel.read(file.number, at: size - bytes.count, into: &bytes) {
                _ = LocalSocket.send(connection.descriptor.number, Array(bytes[..<count]))
            }
        }
    }

    /// Nothing waits for a viewer: what its socket does not take is lost to it, and it is told how much that was.
    func showViewers(_ id: Int, _ bytes: ArraySlice<UInt8>) {
        for index in viewers.indices where viewers[index].unit == id {
            var message = Array(bytes)
            if viewers[index].lost > 0 {
                message = Array("\r\n[workspacekit: \(viewers[index].lost) bytes were not shown]\r\n".utf8) + message
            }
            guard clients[viewers[index].connection]?.isDrained == true else {
                viewers[index].lost += bytes.count
                continue
            }
            switch LocalSocket.send(viewers[index].connection, message) {
            case .bytes(let count) where count == message.count: viewers[index].lost = 0
            case .bytes(let count): viewers[index].lost = max(1, message.count - count)
            case .wouldBlock, .failed: viewers[index].lost += bytes.count
            }
        }
    }

    /// The unit's terminal is closed: so are the connections of those who look at it.
    func endViewers(_ id: Int) {
        for viewer in viewers where viewer.unit == id {
            clients[viewer.connection]?.end(poller)
            clients.remove(viewer.connection)
        }
        viewers.removeAll { $0.unit == id }
    }
}
