"""The command line as people type it: words of docker and kubectl, words that are wrong, and help on terminals of any width."""

import json
import os
import re
import socket
import subprocess

import pytest

from conftest import BINARY, until


def tool(*arguments, **options):
    environment = {**os.environ, **options.pop("environment", {})}
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=60, env=environment, **options)


# ---- exec

def test_exec_takes_what_docker_and_kubectl_take(workspace):
    space = workspace("", arguments=["--network", "none"]).started()
    assert space.cli("exec", "echo", "a", "-n", "--", "b").stdout == "a -n -- b\n"
    assert space.cli("exec", "--", "echo", "-n", "x").stdout == "x"
    assert space.cli("exec", "-i", "cat", input="in").stdout == "in"
    assert space.cli("exec", "--workdir", "/", "-u", "0:0", "sh", "-c", "pwd; id -u").stdout == "/\n0\n"
    # Everything after the program is its own, also what is an option of ours.
    assert space.cli("exec", "echo", "--help", "-t").stdout == "--help -t\n"
    assert "USAGE: workspacekit exec" in space.cli("exec", "--help").stdout
    for arguments in (["exec", "-it", "--", "sh", "-c", "tty"], ["exec", "-ti", "sh", "-c", "tty"], ["exec", "-t", "sh", "-c", "tty"]):
        assert "/dev/pts/" in space.cli(*arguments).stdout
    space.environment["FROM_HERE"] = "value here"
    assert space.cli("exec", "-e", "FROM_HERE", "-e", "A=b", "-e", "NOT_SET", "sh", "-c", "echo $FROM_HERE,$A,${NOT_SET-unset}").stdout == "value here,b,unset\n"


def test_exec_ends_with_the_codes_of_a_shell(workspace):
    space = workspace("", arguments=["--network", "none"]).started()
    for arguments in (["nosuch"], ["--", "nosuch"], ["./nosuch"], ["/no/such"]):
        result = space.cli("exec", *arguments, check=False)
        assert result.returncode == 127 and arguments[-1] in result.stderr, result
    (space.folder / "plain").write_text("no program\n")
    (space.folder / "plain").chmod(0o644)
    # A directory cannot be run either.
    for path in (str(space.folder / "plain"), "/etc"):
        assert space.cli("exec", path, check=False).returncode in (126, 127), path
    assert space.cli("exec", "-u", "nobody-here", "true", check=False).returncode == 126
    assert space.cli("exec", "sh", "-c", "exit 7", check=False).returncode == 7
    for arguments in ([], ["--"], ["-t"], ["--bogus", "ls"]):
        result = space.cli("exec", *arguments, check=False)
        assert result.returncode == 64 and "Error: " in result.stderr, result


# ---- words

@pytest.mark.parametrize("words, meant", [
    ("rnu", "workspacekit run"), ("log", "workspacekit logs"), ("stauts", "workspacekit status"), ("config shwo", "workspacekit config show"),
    ("ports awiat 3000", "workspacekit ports await"), ("net stauts", "workspacekit net status"), ("ls", "workspacekit status"),
    ("down", "workspacekit stop"), ("import compose.yaml", "workspacekit config import"), ("help stauts", "workspacekit status"),
    ("shell", "workspacekit exec -t bash")])
def test_a_wrong_word_is_answered_with_the_right_one(words, meant):
    result = tool(*words.split())
    assert (result.returncode, result.stdout) == (64, "")
    assert f'hint: did you mean "{meant}"?' in result.stderr


@pytest.mark.parametrize("words", ["nosuch", "help nosuch", "config nosuch", "help config nosuch", "help run nosuch"])
def test_a_word_that_is_like_no_command_is_an_error(words):
    result = tool(*words.split())
    assert (result.returncode, result.stdout) == (64, "")
    assert 'unknown command "nosuch"' in result.stderr and "--help" in result.stderr


def test_a_wrong_option_is_answered_with_the_right_one():
    result = tool("run", "--netwrok", "none")
    assert result.returncode == 64 and "--network" in result.stderr


def test_a_wrong_command_line_shows_no_escape_sequence():
    for words in (["\x1b]0;x\x07rnu"], ["status", "--state-dir", "/no/such\x1b[2Jdir"], ["validate", "/no/\x1b[31mfile"]):
        result = tool(*words)
        assert result.returncode != 0 and "\x1b" not in result.stderr and "\x07" not in result.stderr, result.stderr


def test_the_version():
    versions = {tool(*words).stdout for words in (["version"], ["--version"], ["-v"], ["-V"])}
    assert len(versions) == 1 and re.fullmatch(r"\d+\.\d+\.\d+\n", versions.pop())


def test_up_and_ps_are_run_and_status(workspace):
    space = workspace("tasks: [{name: web, command: sleep 1000}]\n", arguments=["--network", "none"], verb="up").started()
    until(lambda: space.status()["web"]["state"] == "running", 10, "the task")
    assert space.cli("ps").stdout.split("\n")[0] == space.cli("status").stdout.split("\n")[0]


# ---- help

def discussions():
    def walk(command, words):
        yield words, command.get("discussion", "")
        for inner in command.get("subcommands", []):
            # `init` has the command lines of tini and dumb-init, and help of its own.
            if inner["commandName"] != "help" and [*words, inner["commandName"]] != ["init"]:
                yield from walk(inner, [*words, inner["commandName"]])
    return list(walk(json.loads(tool("--experimental-dump-help").stdout)["command"], []))


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_help_fits_the_terminal_and_examples_are_whole(columns):
    for words, discussion in discussions():
        for arguments in ([*words, "--help"], ["help", *words]):
            lines = tool(*arguments, environment={"COLUMNS": str(columns)}).stdout.splitlines()
            examples = [line for line in discussion.split("\n") if line.startswith("  ")]
            for example in examples:
                assert example in lines, (words, example)
            for line in lines:
                # A word that is longer than the place for it stands alone.
                is_one_word = len(line.split()) == 1 or re.fullmatch(r"  -.*>|  See '.*", line)
                assert len(line) <= columns or line in examples or is_one_word, (words, line)


def test_help_at_80_columns_has_no_short_lines():
    """The ragged lines of before: what a paragraph's next line begins with would have fitted."""
    for words, discussion in discussions():
        lines = tool(*words, "--help", environment={"COLUMNS": "80"}).stdout.split("USAGE: ")[0].splitlines()
        for line, following in zip(lines, lines[1:]):
            if line and following and not line.startswith("  ") and not following.startswith("  "):
                assert len(line) + 1 + len(following.split()[0]) > 80, (words, line)


def test_examples_fit_80_columns():
    for words, discussion in discussions():
        for line in discussion.split("\n"):
            assert not line.startswith("  ") or len(line) <= 80, (words, line)


@pytest.mark.parametrize("pieces", [[b'{}\n{"exitCode":3}\n'], [b'{}\n', b'{"exitCode":3}\n']], ids=["in one piece", "in two"])
def test_exec_sees_both_answers_however_they_come(tmp_path, pieces):
    """A program that ends at once: the supervisor's two answers may arrive with one read."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "control.sock"))
    server.listen()
    client = subprocess.Popen([BINARY, "exec", "--state-dir", str(tmp_path), "true"], stdin=subprocess.DEVNULL)
    try:
        connection, _ = server.accept()
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)
        assert client.wait(30) == 3
    finally:
        client.kill()
        client.wait()
