"""What is written about the command line is what it is; and shells complete it."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import BINARY, until

ROOT = pathlib.Path(__file__).parents[2]


def generated(form):
    return subprocess.run(["/usr/bin/python3", str(ROOT / "docs/generate.py"), form, BINARY], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("form, path", [("markdown", "docs/commands.md"), ("man", "docs/man/workspacekit.1")])
def test_documentation_is_of_this_binary(form, path):
    assert generated(form) == (ROOT / path).read_text(), "make docs writes it anew"


@pytest.mark.parametrize("page", ["workspacekit.1", "workspacekit.yml.5"])
def test_manual_pages_are_in_order(page):
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    result = subprocess.run(["groff", "-man", "-ww", "-z", "-Kutf8", str(ROOT / "docs/man" / page)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def every_command():
    def walk(command, words):
        yield words
        for inner in command.get("subcommands", []):
            if inner["commandName"] != "help":
                yield from walk(inner, [*words, inner["commandName"]])
    help_text = subprocess.run([BINARY, "--experimental-dump-help"], check=True, capture_output=True, text=True).stdout
    return list(walk(json.loads(help_text)["command"], []))


def test_every_command_has_help_with_examples():
    for words in every_command():
        text = subprocess.run([BINARY, *words, "--help"], check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}).stdout
        assert "usage:" in text.lower(), words
        if "SUBCOMMANDS:" not in text:
            assert "  workspacekit " + " ".join(words).removesuffix(" list") in text, words


COMPLETE = r"""
source <(workspacekit completions bash)
complete_words() {
    COMP_WORDS=(workspacekit "$@"); COMP_CWORD=$#; COMP_LINE="workspacekit $*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
    _workspacekit workspacekit "${@: -1}" "${COMP_WORDS[$#-1]}"
    echo "${COMPREPLY[*]}"
}
"""


def bash(space, *words):
    script = COMPLETE + "complete_words " + " ".join(f"'{word}'" for word in words)
    environment = {**space.environment, "PATH": f"{pathlib.Path(BINARY).parent}:{space.environment['PATH']}", "WORKSPACEKIT_STATE_DIR": str(space.state)}
    return space.lab.in_pod(*space.prefix, "bash", "-c", script, env=environment).stdout.split()


def test_bash_completes_commands_and_units(workspace):
    space = workspace("""
tasks: [{name: web-task, command: sleep 1000}]
workspacekit: {services: {web: {command: sleep 1000}, db: {command: sleep 1000}}}
""", arguments=["--network", "none"]).started()
    assert bash(space, "lo") == ["logs"] and set(bash(space, "st")) == {"status", "start", "stop"}
    assert set(bash(space, "logs", "")) >= {"web", "db", "web-task"} and set(bash(space, "restart", "we")) == {"web", "web-task"}
    assert set(bash(space, "wait", "db", "--for", "")) == {"started", "ready", "healthy", "completed", "stopped"}
    assert bash(space, "config", "sch") == ["schema"] and bash(space, "run", "--netw") == ["--network"]
    space.cli("stop")
    assert not {"web", "db"} & set(bash(space, "logs", ""))


@pytest.mark.parametrize("shell, check", [("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"]), ("bash", ["bash", "-n"])])
def test_completions_are_the_shells_language(shell, check, tmp_path):
    if not shutil.which(check[0]):
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / f"workspacekit.{shell}"
    script.write_text(subprocess.run([BINARY, "completions", shell], check=True, capture_output=True, text=True).stdout)
    result = subprocess.run([*check, str(script)], capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)})
    assert (result.returncode, result.stderr) == (0, "")


def test_fish_completes_commands():
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    directory = pathlib.Path(BINARY).parent
    script = f"set PATH {directory} $PATH; workspacekit completions fish | source; complete -C 'workspacekit eve'"
    result = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, env={**os.environ, "HOME": "/tmp"})
    assert result.stdout.split("\t")[0] == "events", result


def test_an_unknown_shell_is_refused():
    result = subprocess.run([BINARY, "completions", "csh"], capture_output=True, text=True)
    assert result.returncode == 64 and "'csh' is none of bash, zsh and fish" in result.stderr


SAID = r'(?<![\w.])(?:(?:\.note|notice|fail|say|note|notices\.append|notes\.append)\(|ControlResponse\(error: *)\s*("(?:[^"\\]|\\.)*"(?:\s*\+\s*"(?:[^"\\]|\\.)*")*)'


def messages():
    """What the sources say to users, without what is filled in; messages of nothing else are left out."""
    for path in sorted((ROOT / "Sources").rglob("*.swift")):
        for match in re.finditer(SAID, path.read_text()):
            text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', match.group(1)))
            fixed = re.sub(r"\\\((?:[^()]|\([^()]*\))*\)?", "…", text).replace('\\"', '"')
            if len(re.sub(r"[^a-z]", "", fixed)) > 10:
                yield path.name, fixed


def test_every_message_is_explained():
    chapter = (ROOT / "docs/operations.md").read_text().split("## Messages")[1]
    phrases = [phrase for phrase in re.findall(r"`([^`]+)`", "".join(line.split(" | ")[0] for line in chapter.splitlines() if line.startswith("| `"))) if len(phrase) > 4]
    found = list(messages())
    assert len(found) > 60
    missing = [f"{name}: {text}" for name, text in found if not any(phrase in text for phrase in phrases)]
    assert not missing, "\n".join(missing)
    sources = "".join(path.read_text() for path in (ROOT / "Sources").rglob("*.swift")).replace('\\"', '"').replace('"\n                    + "', "")
    stale = [phrase for phrase in phrases if not any(phrase in text for _, text in found) and re.sub(r'"\s*\+?\s*"', "", phrase) not in re.sub(r'"\s*\+\s*"', "", sources)]
    assert not stale, stale


def test_each_promise_of_security_md_names_a_test_that_exists():
    rows = re.findall(r"^\| .* \| .* \| (`.*`) \|$", (ROOT / "docs/security.md").read_text(), re.M)
    names = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert len(names) > 2
    for name in names:
        assert (ROOT / "Tests/EndToEnd" / name).exists() or list((ROOT / "Tests").glob(f"*/{name}.swift")), name


def test_the_list_of_mistakes_fits_the_code():
    """Tests/mistakes.py puts them into the code; that takes too long for each run."""
    result = subprocess.run(["/usr/bin/python3", str(ROOT / "Tests/mistakes.py"), "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def command_lines():
    """Command lines of ours in README.md and docs, in code blocks and in running text."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if path.name == "commands.md":  # of the binary itself
            continue
        text = path.read_text()
        found = re.findall(r"`(workspacekit [a-z][^`]*)`", text.replace("\n", " "))
        found += re.findall(r"^    (?:.*\s)?(workspacekit [a-z].*)$", text, re.M)
        for line in found:
            # A comment, a pipe, the next command, or a sentence that follows.
            line = re.split(r"\s#|\s[|>&]|; |\)|\"|: |\.\.\. ", line)[0]
            yield path.name, line.split()[1:]


def test_every_command_line_of_the_documentation_is_one():
    tree = json.loads(subprocess.run([BINARY, "--experimental-dump-help"], check=True, capture_output=True, text=True).stdout)["command"]
    checked = 0
    for name, words in command_lines():
        command, rest = tree, list(words)
        while rest and "subcommands" in command:
            inner = next((c for c in command["subcommands"] if rest[0] in [c["commandName"], *c.get("aliases", [])]), None)
            if inner is None:
                break
            command, rest = inner, rest[1:]
        assert command is not tree or not rest, (name, words)
        known = {("--" if option["kind"] == "long" else "-") + option["name"]: argument["kind"]
                 for argument in command.get("arguments", []) for option in argument.get("names", [])}
        takes_values = False
        for word in rest:
            if word == "--" or (command["commandName"] in ("exec", "init") and not word.startswith("-") and not takes_values):
                break
            takes_values = False
            if word.startswith("-") and command["commandName"] != "init":
                option = word.split("=")[0].strip("[],")
                assert option in known or all("-" + letter in known for letter in option[1:]), (name, words, word)
                takes_values = known.get(option) == "option"
        checked += 1
    assert checked > 40
