import TestSupport
import Testing

@testable import Config

/// A document as one line of JSON, merge keys resolved; the message of an error.
private func json(_ text: String) -> String { json(Array(text.utf8)) }
private func json(_ bytes: [UInt8]) -> String {
    do {
        return try YAMLReader.read(bytes).root.map { jsonText(Checker().resolved($0)) } ?? "nothing"
    } catch {
        return "\(error.mark.line):\(error.mark.column): \(error.message)"
    }
}

/// What YAML's specification and its test suite are about, in cases of our own.
@Suite("YAML")
struct YAMLTests {
    @Test(
        "scalars",
        arguments: [
            ("a", "\"a\""), ("a b", "\"a b\""), ("'a'", "\"a\""), ("\"a\"", "\"a\""), ("'it''s'", "\"it's\""),
            ("\"\\n\\t\\u00e9\\x41\\/\\\\\"", "\"\\n\\té" + "A/\\\\\""), ("'a\\n'", "\"a\\\\n\""),
            ("a #b", "\"a\""), ("a#b", "\"a#b\""), ("- a: b:c", "[{\"a\":\"b:c\"}]"), ("a\n b\n\n c", "\"a b\\nc\""),
            ("\"a\n  b\"", "\"a b\""), ("\"a\\\n  b\"", "\"ab\""), ("'a\n\n  b'", "\"a\\nb\""), ("", "nothing"),
            ("# only", "nothing"), ("---", "null"), ("~", "null"), ("!!str 1", "\"1\""), ("! 1", "\"1\""),
            ("!!int \"7\"", "7"), ("!x 1", "1"), ("-1", "-1"), ("- -1", "[-1]"), ("+.5", "0.5"), ("1e-1", "0.1"),
            ("0x1g", "\"0x1g\""), ("true", "true"), ("TRUE", "true"), ("tRUE", "\"tRUE\""), ("yes", "\"yes\""),
            ("1:30", "\"1:30\""), ("2001-12-14", "\"2001-12-14\""), ("=", "\"=\""), (".", "\".\""), ("a?b", "\"a?b\""),
            ("?a", "\"?a\""), ("-a", "\"-a\""), (":a", "\":a\""),
        ])
    func scalars(_ text: String, _ expected: String) { #expect(json(text) == expected) }

    @Test(
        "block scalars",
        arguments: [
            ("|\n a\n b\n", "\"a\\nb\\n\""), ("|-\n a\n", "\"a\""), ("|+\n a\n\n", "\"a\\n\\n\""), ("|\n a", "\"a\""),
            (">\n a\n b\n\n c\n", "\"a b\\nc\\n\""), (">-\n a\n  b\n c\n", "\"a\\n b\\nc\""),
            ("|2\n   a\n  b\n", "\" a\\nb\\n\""),
            ("|\n\n a\n", "\"\\na\\n\""), ("|\n a\n\n\n b\n", "\"a\\n\\n\\nb\\n\""), ("|\n", "\"\""),
            ("| # comment\n a\n", "\"a\\n\""),
            ("a: |\n  # no comment\nb: 1", "{\"a\":\"# no comment\\n\",\"b\":1}"),
            ("a: |\n  \"x\"\n", "{\"a\":\"\\\"x\\\"\\n\"}"),
            ("- |\n a\n- >\n b\n", "[\"a\\n\",\"b\\n\"]"),
            (
                "a: |\n\tx",
                "2:1: found a tab character where an indentation space is expected, while scanning a block scalar"
            ),
            (
                "|\n a\n\tb",
                "3:1: found a tab character where an indentation space is expected, while scanning a block scalar"
            ),
        ])
    func blocks(_ text: String, _ expected: String) { #expect(json(text) == expected) }

    @Test(
        "collections",
        arguments: [
            ("[]", "[]"), ("{}", "{}"), ("[a, b,]", "[\"a\",\"b\"]"), ("{a: 1, b}", "{\"a\":1,\"b\":null}"),
            ("[a: 1]", "[{\"a\":1}]"), ("{\"a\":1}", "{\"a\":1}"), ("- - a\n  - b\n- c", "[[\"a\",\"b\"],\"c\"]"),
            ("a:\n- b\nc: d", "{\"a\":[\"b\"],\"c\":\"d\"}"), ("a:\n  - b: 1\n    c: 2", "{\"a\":[{\"b\":1,\"c\":2}]}"),
            ("a:\nb:", "{\"a\":null,\"b\":null}"), ("-\n-", "[null,null]"), ("? a\n: b", "{\"a\":\"b\"}"),
            ("? a", "{\"a\":null}"),
            ("{a: [1, {b: 2}]}", "{\"a\":[1,{\"b\":2}]}"), ("[\n# c\na\n]", "[\"a\"]"),
            ("a: {\n  b: 1\n}", "{\"a\":{\"b\":1}}"),
            ("a: b: c", "1:5: mapping values are not allowed in this context"),
            ("a: 1\n b: 2", "2:3: mapping values are not allowed in this context"),
            ("[a, b", "2:1: did not find expected ',' or ']', while parsing a flow sequence"),
            ("{a: 1]", "1:6: did not find expected ',' or '}', while parsing a flow mapping"),
            ("- a\nb: 1", "2:1: did not find expected '-' indicator, while parsing a block collection"),
            ("a: @b", "1:4: found character that cannot start any token, while scanning for the next token"),
            ("a: %b", "1:4: found character that cannot start any token, while scanning for the next token"),
            ("a: 'b", "1:6: found unexpected end of stream, while scanning a quoted scalar"),
        ])
    func collections(_ text: String, _ expected: String) {
        #expect(json(text) == expected)
    }

    @Test(
        "anchors, aliases and merge keys",
        arguments: [
            ("- &a 1\n- *a", "[1,1]"), ("- &a [x]\n- *a\n- *a", "[[\"x\"],[\"x\"],[\"x\"]]"),
            ("a: &x {k: 1}\nb: *x", "{\"a\":{\"k\":1},\"b\":{\"k\":1}}"),
            ("- &a 1\n- &a 2\n- *a", "[1,2,2]"), ("&k a: 1\nb: *k", "{\"a\":1,\"b\":\"a\"}"),
            ("*a", "1:1: unknown anchor \"a\""),
            ("- *a\n- &a 1", "1:3: unknown anchor \"a\""), ("&a [*a]", "1:5: unknown anchor \"a\""),
            ("- &a {x: 1, y: 2}\n- {<<: *a, y: 3}", "[{\"x\":1,\"y\":2},{\"y\":3,\"x\":1}]"),
            ("- &a {x: 1}\n- &b {x: 2, z: 3}\n- {<<: [*a, *b]}", "[{\"x\":1},{\"x\":2,\"z\":3},{\"x\":1,\"z\":3}]"),
            ("- &a {x: 1}\n- &b {<<: *a, y: 2}\n- {<<: *b}", "[{\"x\":1},{\"y\":2,\"x\":1},{\"y\":2,\"x\":1}]"),
            ("{<<: {a: 1}, a: 2}", "{\"a\":2}"), ("{a: 2, <<: {a: 1}}", "{\"a\":2}"), ("{\"<<\": 1}", "{\"<<\":1}"),
            ("{<<: ~}", "{}"), ("{<<: [], a: 1}", "{\"a\":1}"),
        ])
    func anchors(_ text: String, _ expected: String) { #expect(json(text) == expected) }

    @Test(
        "bytes: line ends, marks, documents, duplicates",
        arguments: [
            ("a: 1\r\nb: 2\r\n", "{\"a\":1,\"b\":2}"), ("a: 1\rb: 2", "{\"a\":1,\"b\":2}"),
            ("\u{feff}a: 1", "{\"a\":1}"),
            ("a: |\r\n  x\r\n  y\r\n", "{\"a\":\"x\\ny\\n\"}"), ("a:\t1", "{\"a\":1}"), ("a: 1\t# c", "{\"a\":1}"),
            ("\ta: 1", "1:1: found character that cannot start any token, while scanning for the next token"),
            ("a:\n\t- b", "2:1: found character that cannot start any token, while scanning for the next token"),
            ("[\ta,\tb]", "[\"a\",\"b\"]"), ("--- a\n--- b", "\"a\""),
            ("a\n...\nb", "3:1: did not find expected <document start>"),
            ("%YAML 1.1\n--- a", "\"a\""),
            ("%TAG ! tag:x,1:\n--- !a b", "\"b\""), ("{a: 1, a: 2}", "{\"a\":2}"),
            ("a: 1\nb: 2\na: 3", "{\"a\":3,\"b\":2}"),
            ("\"a\": 1\na: 2", "{\"a\":2}"), ("a: \"\u{85}\"", "{\"a\":\" \"}"), ("--- |\n a\n---\nb", "\"a\\n\""),
        ])
    func bytes(_ text: String, _ expected: String) { #expect(json(text) == expected) }

    @Test("bytes that are no characters have a place")
    func badBytes() {
        #expect(json([97, 58, 32, 0xff]) == "1:4: invalid leading UTF-8 octet")
        #expect(json([97, 10, 0xe2, 0x82]) == "2:1: incomplete UTF-8 octet sequence")
        #expect(json([0xc0, 0x80]) == "1:1: invalid length of a UTF-8 sequence")
        #expect(json([97, 0]) == "1:2: control characters are not allowed")
        #expect(json([0xfe, 0xff, 0, 97]) == "\"a\"")
        #expect(json([0xff, 0xfe, 97, 0]) == "\"a\"")
        #expect(json([0xff, 0xfe, 0, 0xd8]) == "1:1: incomplete UTF-16 surrogate pair")
    }

    @Test("what is written reads as the same", arguments: 0..<200)
    func roundTrip(seed: Int) {
        var random = SeededGenerator(seed: UInt64(seed))
        let node = Self.tree(&random, depth: 0)
        let text = YAMLText(node).text
        #expect(json(text) == jsonText(node), "\(text)")
    }

    private static func tree(_ random: inout SeededGenerator, depth: Int) -> Node {
        switch Int.random(in: 0..<(depth > 3 ? 2 : 5), using: &random) {
        case 0, 1: return scalar(&random)
        case 2, 3:
            let count = Int.random(in: 0..<5, using: &random)
            var names: Set<String> = []
            return Node(
                pairs: (0..<count).compactMap { _ in
                    let name = word(&random)
                    // The merge key is a key of its own.
                    return names.insert(name).inserted ? (name, tree(&random, depth: depth + 1)) : nil
                })
        default:
            return Node(
                .sequence((0..<Int.random(in: 0..<5, using: &random)).map { _ in tree(&random, depth: depth + 1) }))
        }
    }

    private static func scalar(_ random: inout SeededGenerator) -> Node {
        switch Int.random(in: 0..<8, using: &random) {
        case 0: return Node(.integer(Int.random(in: -1000...1000, using: &random)))
        case 1: return Node(.boolean(Bool.random(using: &random)))
        case 2: return Node(.null)
        default: return Node(.string(word(&random)))
        }
    }

    private static let pieces: [String] = [
        "a", "b c", " ", "\n", "\t", ":", ": ", "#", " #", "-", "- ", "?", "'", "\"", "\\", "{", "}", "[", "]", ",",
        "&",
        "*", "!", "|", ">", "%", "@", "`", "yes", "no", "null", "~", "1", "0x1", "1.5", "22:22", "<<", "=", "---",
        "...", "é",
        "🚀", "\u{85}", "\u{2028}", "\u{feff}", "\u{7f}", "\u{1}", "\u{a0}", "true", "\r", "end\n", "\n\n", "x: y\n",
    ]

    private static func word(_ random: inout SeededGenerator) -> String {
        (0..<Int.random(in: 0..<5, using: &random)).map { _ in pieces.randomElement(using: &random) ?? "" }.joined()
    }
}
