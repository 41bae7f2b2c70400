internal import Glibc

/// A POSIX extended regular expression (regcomp(3)), for lines of a log.
@safe final class LineMatcher {
    private let compiled: UnsafeMutablePointer<regex_t>

    /// nil for a text that is none.
    convenience init?(_ expression: String) {
        let memory = UnsafeMutablePointer<regex_t>.allocate(capacity: 1)
        guard unsafe regcomp(memory, expression, REG_EXTENDED | REG_NOSUB) == 0 else {
            unsafe memory.deallocate()
            return nil
        }
        unsafe self.init(owning: memory)
    }

    private init(owning compiled: UnsafeMutablePointer<regex_t>) { unsafe self.compiled = compiled }

    deinit {
        unsafe regfree(compiled)
        unsafe compiled.deallocate()
    }

    /// Whether the line has a match. What comes after a zero byte is not looked at.
    func matches(_ line: ArraySlice<UInt8>) -> Bool {
        let text = line.map { CChar(bitPattern: $0) } + [0]
        return unsafe regexec(compiled, text, 0, nil, 0) == 0
    }
}
