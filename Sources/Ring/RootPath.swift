internal import Kernel

/// Paths as they are in a root that is being assembled: links of it lead to places in it.
struct RootPath {
    private let root: String

    init(_ root: String) { self.root = root }

    /// The file that `path` leads to, with the root before it and without a link in it; nil when it leads nowhere.
    func resolve(_ path: String) -> String? {
        let target = root + target(of: path)
        return Files.status(target, followLinks: false) == nil ? nil : target
    }

    /// Where `path` leads to, whether something is there or not, as a path in the root.
    func target(of path: String) -> String {
        var at = ""
        var names = Array(path.split(separator: "/").reversed())
        var links = 0
        while let name = names.popLast() {
            if name == "." { continue }
            if name == ".." {
                at = at.split(separator: "/").dropLast().map { "/" + $0 }.joined()
                continue
            }
            guard links < 40, let target = Files.linkTarget("\(root)\(at)/\(name)") else {
                at += "/\(name)"
                continue
            }
            links += 1
            names += target.split(separator: "/").reversed()
            if target.hasPrefix("/") { at = "" }
        }
        return at.isEmpty ? "/" : at
    }
}
