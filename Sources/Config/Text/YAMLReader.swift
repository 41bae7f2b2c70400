internal import CYAML

/// A file that is no YAML, or more of it than we read.
struct YAMLError: Error {
    var mark: Mark
    var message: String
    var code: DiagnosticCode
    /// What to write instead; nil for nothing.
    var hint: String?
}

/// # Theory of operation
///
/// libyaml's events become a tree in one pass; libyaml resolves nothing, so a scalar stays the text it is. Input is
/// bounded before anything is built: bytes, depth, and nodes with every alias counted as often as it is used, so that
/// a "billion laughs" file costs no more than its bytes.
@safe struct YAMLReader: ~Copyable {
    static let byteLimit = 1 << 20, depthLimit = 100, nodeLimit = 100_000

    private let parser: UnsafeMutablePointer<yaml_parser_t>
    private let event: UnsafeMutablePointer<yaml_event_t>
    private var hasEvent = false
    private var anchors: [String: Node] = [:]
    private var nodes = 0
    private let file: Int
    private let bytes: [UInt8]

    /// The first document's root (nil when the file is empty), and where a second document begins, if one does.
    static func read(_ bytes: [UInt8], file: Int = 0) throws(YAMLError) -> (root: Node?, second: Mark?) {
        guard bytes.count <= byteLimit else {
            throw YAMLError(
                mark: Mark(file: file, line: 1, column: 1), message: "the file is larger than 1 MiB", code: .tooLarge)
        }
        var reader = YAMLReader(bytes.isEmpty ? [10] : bytes, file)
        return try reader.document()
    }

    private init(_ bytes: [UInt8], _ file: Int) {
        self.bytes = bytes
        self.file = file
        unsafe parser = .allocate(capacity: 1)
        unsafe event = .allocate(capacity: 1)
        _ = unsafe yaml_parser_initialize(parser)
    }

    deinit {
        if hasEvent { unsafe yaml_event_delete(event) }
        unsafe yaml_parser_delete(parser)
        unsafe parser.deallocate()
        unsafe event.deallocate()
    }

    private mutating func document() throws(YAMLError) -> (root: Node?, second: Mark?) {
        // The parser reads the bytes while `bytes` is alive: the whole walk happens inside.
        let result: Result<(root: Node?, second: Mark?), YAMLError> = unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe yaml_parser_set_input_string(parser, buffer.baseAddress, buffer.count)
            do throws(YAMLError) { return .success(try walk()) } catch { return .failure(error) }
        }
        return try result.get()
    }

    private mutating func walk() throws(YAMLError) -> (root: Node?, second: Mark?) {
        try next()  // stream start
        try next()
        guard unsafe event.pointee.type == YAML_DOCUMENT_START_EVENT else { return (nil, nil) }
        try next()
        let root = try node(depth: 0)
        try next()
        guard unsafe event.pointee.type == YAML_DOCUMENT_END_EVENT else { return (root, nil) }
        try next()
        return (root, unsafe event.pointee.type == YAML_DOCUMENT_START_EVENT ? start : nil)
    }

    private var start: Mark {
        unsafe Mark(
            file: file, line: Int(event.pointee.start_mark.line) + 1, column: Int(event.pointee.start_mark.column) + 1)
    }
    private var end: Mark {
        unsafe Mark(
            file: file, line: Int(event.pointee.end_mark.line) + 1, column: Int(event.pointee.end_mark.column) + 1)
    }

    private mutating func next() throws(YAMLError) {
        if hasEvent { unsafe yaml_event_delete(event) }
        hasEvent = false
        guard unsafe yaml_parser_parse(parser, event) == 1 else { throw problem() }
        hasEvent = true
    }

    private func problem() -> YAMLError {
        let text = unsafe parser.pointee.problem.map { unsafe String(cString: $0) } ?? "unreadable YAML"
        let during = unsafe parser.pointee.context.map { unsafe String(cString: $0) }
        let mark = unsafe parser.pointee.problem_mark
        let message = during.map { "\(text), \($0)" } ?? text
        // What the reader below the scanner stumbles on has an offset only.
        if unsafe parser.pointee.error == YAML_READER_ERROR {
            let before = LineIndex(Array(bytes.prefix(unsafe Int(parser.pointee.problem_offset))))
            let mark = Mark(file: file, line: before.count, column: before.lastLength + 1)
            return YAMLError(mark: mark, message: message, code: .syntax)
        }
        let place = Mark(file: file, line: Int(mark.line) + 1, column: Int(mark.column) + 1)
        let context = unsafe parser.pointee.context_mark
        let hasContext = unsafe parser.pointee.context != nil
        let begin = Mark(file: file, line: Int(context.line) + 1, column: Int(context.column) + 1)
        let hint = SyntaxHint(LineIndex(bytes), at: place, within: hasContext ? begin : nil).text
        return YAMLError(mark: place, message: message, code: .syntax, hint: hint)
    }

    /// What a scalar's tag makes of it; by its style where there is none.
    private static func isPlain(_ tag: String?, _ style: yaml_scalar_style_t) -> Bool {
        switch tag {
        case "tag:yaml.org,2002:str"?, "!"?: false
        case "tag:yaml.org,2002:int"?, "tag:yaml.org,2002:float"?, "tag:yaml.org,2002:bool"?,
            "tag:yaml.org,2002:null"?:
            true
        default: style == YAML_PLAIN_SCALAR_STYLE
        }
    }

    /// The node that the current event begins; afterwards the current event is its last.
    private mutating func node(depth: Int) throws(YAMLError) -> Node {
        let from = start
        guard depth < Self.depthLimit else {
            throw YAMLError(mark: from, message: "nested deeper than \(Self.depthLimit) levels", code: .tooLarge)
        }
        let type = unsafe event.pointee.type
        let result: Node
        let anchor: String?
        switch type {
        case YAML_ALIAS_EVENT:
            let name = unsafe Self.string(event.pointee.data.alias.anchor)
            guard let target = anchors[name] else {
                throw YAMLError(mark: from, message: "unknown anchor \"\(name)\"", code: .syntax)
            }
            try count(target.weight, from)
            return target
        case YAML_SCALAR_EVENT:
            let text = unsafe Self.string(event.pointee.data.scalar.value, event.pointee.data.scalar.length)
            let tag = unsafe event.pointee.data.scalar.tag.map { unsafe Self.string($0) }
            let isPlain = Self.isPlain(tag, unsafe event.pointee.data.scalar.style)
            anchor = unsafe event.pointee.data.scalar.anchor.map { unsafe Self.string($0) }
            try count(1, from)
            result = Node(content: .scalar(text, isPlain: isPlain), start: from, end: end, weight: 1)
        case YAML_SEQUENCE_START_EVENT:
            anchor = unsafe event.pointee.data.sequence_start.anchor.map { unsafe Self.string($0) }
            try count(1, from)
            var items: [Node] = []
            try next()
            while unsafe event.pointee.type != YAML_SEQUENCE_END_EVENT {
                items.append(try node(depth: depth + 1))
                try next()
            }
            let weight = items.reduce(1) { $0 + $1.weight }
            result = Node(content: .sequence(items), start: from, end: end, weight: weight)
        case YAML_MAPPING_START_EVENT:
            anchor = unsafe event.pointee.data.mapping_start.anchor.map { unsafe Self.string($0) }
            try count(1, from)
            var pairs: [(key: Node, value: Node)] = []
            try next()
            while unsafe event.pointee.type != YAML_MAPPING_END_EVENT {
                let key = try node(depth: depth + 1)
                try next()
                let value = try node(depth: depth + 1)
                try next()
                pairs.append((key, value))
            }
            let weight = pairs.reduce(1) { $0 + $1.key.weight + $1.value.weight }
            result = Node(content: .mapping(pairs), start: from, end: end, weight: weight)
        default:
            throw YAMLError(mark: from, message: "unexpected end of the document", code: .syntax)
        }
        if let anchor { anchors[anchor] = result }
        return result
    }

    private mutating func count(_ more: Int, _ mark: Mark) throws(YAMLError) {
        nodes += more
        guard nodes <= Self.nodeLimit else {
            throw YAMLError(
                mark: mark, message: "more than \(Self.nodeLimit) values once aliases are expanded", code: .tooLarge)
        }
    }

    private static func string(_ pointer: UnsafeMutablePointer<yaml_char_t>, _ length: Int) -> String {
        unsafe String(decoding: UnsafeBufferPointer(start: pointer, count: length), as: UTF8.self)
    }

    private static func string(_ pointer: UnsafeMutablePointer<yaml_char_t>?) -> String {
        guard let pointer = unsafe pointer else { return "" }
        return unsafe String(cString: pointer)
    }
}
