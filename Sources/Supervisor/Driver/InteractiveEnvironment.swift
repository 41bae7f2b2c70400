/// What an interactive shell of a task's user has, for the shell that runs the task: in Gitpod tasks are typed into one, so
/// that nvm, conda and functions of ~/.bashrc are there, also those behind its guard against shells that are not interactive.
///
/// An interactive bash reads ~/.bashrc, and its variables, functions and directory are taken over. The task's own shell stays as
/// it is: an interactive one ignores SIGTERM, has process groups of its own for what it starts, and complains without a
/// terminal. Aliases are left out (`rm -i` would wait for an answer that never comes), and what cannot be set again.
enum InteractiveEnvironment {
    /// Text for bash, to stand before a task's.
    static let prelude = """
        if [ -r ~/.bashrc ]; then IFS= read -r -d '' _wk_text < <(exec 8>&2 9>&1 1>&2 2>/dev/null </dev/null
        exec "$BASH" --rcfile <(cat <<'_wk_end'
        exec 2>&8 8>&-; _wk_from=$PWD
        . ~/.bashrc 9>&-
        { shopt -p extglob; _wk_fixed=$(readonly -p)
        for _wk_name in $(compgen -v); do case $_wk_name in
        _wk_*|BASH*|COLUMNS|COMP_*|DIRSTACK|EPOCH*|EUID|FUNCNAME|GROUPS|HIST*|HOSTNAME|HOSTTYPE|IFS|LINENO|LINES|MACHTYPE) continue;;
        OLDPWD|OPT*|OSTYPE|PIPESTATUS|PPID|PROMPT_COMMAND|PS[0-9]|PWD|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID|_) continue;;
        esac; case $_wk_fixed in *" $_wk_name="*) continue;; esac; declare -p "$_wk_name"; done
        declare -f; [ "$PWD" = "$_wk_from" ] || printf 'cd -- %q\\n' "$PWD"; } >&9 2>/dev/null
        printf '\\0' >&9; exit 0
        _wk_end
        ) -i) && eval "$_wk_text"; unset _wk_text; fi

        """

    /// A shell's text with it in front, where the shell is one that can have it.
    static func adding(to text: String, for shell: String) -> String {
        shell.hasSuffix("/bash") ? prelude + text : text
    }
}
