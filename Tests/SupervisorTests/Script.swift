import Config
import Kernel

@testable import Supervisor

/// Drives an engine by hand: events in, actions out, time only when the test says so.
struct Script {
    var engine: Engine
    var now = MonotonicInstant(nanoseconds: 1_000_000_000)
    private(set) var actions: [Engine.Action] = []
    /// Units whose process leaves others in its group.
    var leaving: Set<Int> = []

    init(_ specs: [UnitSpec], budget: Duration = .seconds(6)) { engine = Engine(specs, budget: budget, seed: 7) }

    mutating func feed(_ event: Engine.Event) {
        var new: [Engine.Action] = []
        engine.handle(event, at: now, into: &new)
        add(new)
    }

    mutating func advance(_ duration: Duration) {
        now = now + duration
        var new: [Engine.Action] = []
        engine.advance(to: now, into: &new)
        add(new)
    }

    /// Questions are answered at once.
    private mutating func add(_ new: [Engine.Action]) {
        for action in new {
            guard case .lookForGroup(let id, _) = action else {
                actions.append(action)
                continue
            }
            if !leaving.contains(id) { feed(.groupEnded(id)) }
        }
    }

    /// Goes on with an engine made from the records of this one, as a supervisor does that takes over.
    mutating func takeOver() {
        let records = engine.specs.indices.map { UnitRecord(fields: UnitRecord(engine, $0, statusText: "").fields) }
        actions = []
        engine = Engine(
            engine.specs, records: records, phase: engine.phaseFields, budget: .seconds(6), seed: 7, at: now)
        advance(.zero)
    }

    /// The actions since the last call, without reports.
    mutating func take() -> [Engine.Action] {
        defer { actions = [] }
        return actions.filter { action in
            switch action {
            case .report, .reportEnd, .announce: false
            default: true
            }
        }
    }

    /// The lines for users since the last call; all else is forgotten too.
    mutating func takeReports() -> [String] {
        defer { actions = [] }
        return actions.compactMap { action in
            switch action {
            case .report(_, let text), .announce(let text): text
            case .reportEnd(_, let ending): "ended: \(ending)"
            default: nil
            }
        }
    }
}

func service(_ name: String, _ restart: RestartPolicy = .always, after dependencies: [UnitDependency] = []) -> UnitSpec
{
    var spec = UnitSpec(name: name, kind: .service)
    spec.restart = restart
    spec.dependencies = dependencies
    return spec
}

func task(_ name: String, after dependencies: [UnitDependency] = []) -> UnitSpec {
    var spec = UnitSpec(name: name, kind: .task)
    spec.dependencies = dependencies
    return spec
}
