import Config

// Prints what `make docs` writes: usage: configuration-docs markdown|man|schema
switch CommandLine.arguments.dropFirst().first {
case "markdown": print(Documentation.markdown, terminator: "")
case "man": print(Documentation.manualPage, terminator: "")
default: print(JSONSchema.text)
}
