/// The user outside who stands for root inside in an id map that otherwise keeps every id, nil for other maps: ring0 writes
/// such a map where it may not map its own root.
func substituteRoot(_ uidMap: String) -> UInt32? {
    let lines = uidMap.split(separator: "\n").map { line in line.split(separator: " ").compactMap { UInt32($0) } }
    guard let first = lines.first, first.count == 3, first[0] == 0, first[1] != 0, first[2] == 1 else { return nil }
    return lines.dropFirst().contains { $0.count == 3 && $0[0] == $0[1] } ? first[1] : nil
}
