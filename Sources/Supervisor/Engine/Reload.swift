internal import Config
internal import Control
internal import Kernel

/// # Theory of operation
///
/// What a changed configuration means for what runs. Units are matched by kind and name (the n-th of a name with the
/// n-th), and compared key by key: a key that a process has from its start makes the unit start anew, any other is
/// only taken note of, and what did not change is not touched. What only a new workspace can have is said.
struct Reload {
    /// What is to happen to the units, for the engine; places are those of the units that run.
    enum Step {
        case add(PlannedUnit)
        case redefine(Int, PlannedUnit)
        case adjust(Int, PlannedUnit)
        case remove(Int)
    }
    private(set) var steps: [Step] = []
    private(set) var changes: [ReloadChange] = []

    /// - Parameters:
    ///   - isRemoved: which of `units` are no longer wanted already.
    ///   - made: what the rings and the forwarder were made with; nil for `old`.
    init(
        units: [PlannedUnit], isRemoved: [Bool], wanted: [PlannedUnit], from old: WorkspaceConfiguration,
        to new: WorkspaceConfiguration, made: WorkspaceConfiguration? = nil
    ) {
        compare(units, isRemoved, wanted)
        comparePorts(old.ports, new.ports)
        compareSettings(old, new, made ?? old)
    }

    private struct Key: Hashable {
        let kind: UnitSpec.Kind
        let name: String
        let occurrence: Int
    }

    private static func keys(_ units: [PlannedUnit]) -> [Key] {
        var seen: [String: Int] = [:]
        return units.map { unit in
            let occurrence = seen["\(unit.spec.kind) \(unit.spec.name)", default: 0]
            seen["\(unit.spec.kind) \(unit.spec.name)"] = occurrence + 1
            return Key(kind: unit.spec.kind, name: unit.spec.name, occurrence: occurrence)
        }
    }

    private mutating func compare(_ units: [PlannedUnit], _ isRemoved: [Bool], _ wanted: [PlannedUnit]) {
        let places = Dictionary(zip(Self.keys(units), units.indices), uniquingKeysWith: { a, _ in a })
        var isKept = [Bool](repeating: false, count: units.count)
        for (key, unit) in zip(Self.keys(wanted), wanted) {
            guard let place = places[key] else {
                add(unit)
                continue
            }
            isKept[place] = true
            if isRemoved[place] {
                steps.append(.redefine(place, unit))
                note(unit, .start, [])
            } else {
                compare(place, units[place], unit)
            }
        }
        for place in units.indices where !isKept[place] && !isRemoved[place] && units[place].spec.kind != .command {
            steps.append(.remove(place))
            note(units[place], .stop, [])
        }
    }

    private mutating func add(_ unit: PlannedUnit) {
        steps.append(.add(unit))
        note(unit, unit.spec.skipped == nil ? .start : .skip, unit.spec.skipped.map { [$0] } ?? [])
    }

    private mutating func compare(_ place: Int, _ old: PlannedUnit, _ new: PlannedUnit) {
        let before = Dictionary(old.aspects.map { ($0.name, $0) }, uniquingKeysWith: { a, _ in a })
        let changed = new.aspects.filter { before[$0.name] != $0 }
        if changed.contains(where: \.needsRestart) {
            steps.append(.redefine(place, new))
            note(new, new.spec.skipped == nil ? .restart : .skip, changed.map(\.name))
        } else if let reason = old.spec.skipped, new.spec.skipped == nil {
            steps.append(.redefine(place, new))
            note(new, .start, ["no longer: \(reason)"])
        } else if !changed.isEmpty {
            steps.append(.adjust(place, new))
            note(new, .adjust, changed.map(\.name))
        }
    }

    private mutating func note(_ unit: PlannedUnit, _ action: ReloadChange.Action, _ because: [String]) {
        changes.append(
            ReloadChange(kind: unit.spec.kind.rawValue, name: unit.spec.name, action: action, because: because))
    }

    private mutating func comparePorts(_ old: [PortSpec], _ new: [PortSpec]) {
        func text(_ ports: ClosedRange<UInt16>) -> String {
            ports.count == 1 ? "\(ports.lowerBound)" : "\(ports.lowerBound)-\(ports.upperBound)"
        }
        func said(_ port: PortSpec) -> [String?] {
            [port.name, port.description, port.onOpen, port.visibility, port.networkProtocol]
        }
        let before = Dictionary(old.map { ($0.ports, $0) }, uniquingKeysWith: { a, _ in a })
        let after = Dictionary(new.map { ($0.ports, $0) }, uniquingKeysWith: { a, _ in a })
        for port in new where after[port.ports] == port {
            if let was = before[port.ports] {
                if said(was) != said(port) {
                    changes.append(ReloadChange(kind: "port", name: text(port.ports), action: .adjust, because: []))
                }
            } else {
                changes.append(ReloadChange(kind: "port", name: text(port.ports), action: .start, because: []))
            }
        }
        for port in old where after[port.ports] == nil && before[port.ports] == port {
            changes.append(ReloadChange(kind: "port", name: text(port.ports), action: .stop, because: []))
        }
    }

    /// What the rings and the forwarder were made with waits for the next start, and is said as long as it does.
    private mutating func compareSettings(
        _ old: WorkspaceConfiguration, _ new: WorkspaceConfiguration, _ made: WorkspaceConfiguration
    ) {
        func withoutForwards(_ network: NetworkSpec) -> NetworkSpec {
            var network = network
            network.forwards = []
            return network
        }
        let settings: [(String, Bool)] = [
            ("experimentalNetwork", made.experimentalNetwork != new.experimentalNetwork),
            ("workspacekit.network", withoutForwards(made.network) != withoutForwards(new.network)),
            ("workspacekit.filesystem", made.filesystem != new.filesystem),
            ("workspacekit.shutdown.grace", made.stopGrace != new.stopGrace),
        ]
        if old.network.forwards != new.network.forwards {
            changes.append(
                ReloadChange(kind: "setting", name: "workspacekit.network.forwards", action: .adjust, because: []))
        }
        if old.gitConfig != new.gitConfig {
            changes.append(ReloadChange(kind: "setting", name: "gitConfig", action: .adjust, because: []))
        }
        for (name, isChanged) in settings where isChanged {
            changes.append(ReloadChange(kind: "setting", name: name, action: .atNextStart, because: []))
        }
    }
}
