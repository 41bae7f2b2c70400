#!/usr/bin/env python3
"""Puts small mistakes into the code, one at a time, and tells which of them the tests notice.

    Tests/mistakes.py                 all of Tests/mistakes.toml, each with its tests
    Tests/mistakes.py --check         only whether each still fits the code, which `make test` asks too
    Tests/mistakes.py NAME...         these

Each runs in a copy of the tree, with a debug build of its own, so that nothing of the tree changes. A mistake is noticed when
its tests pass without it and fail with it. Ends with 1 when fewer than nine in ten are noticed."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIST = ROOT / "Tests" / "mistakes.toml"
BUILD = ["swift", "build", "--product", "workspacekit", "-Xswiftc", "-static-executable", "-Xswiftc", "-use-ld=lld"]
PYTHON = "/usr/bin/python3"  # as in the Makefile
LIMIT = 900  # seconds for one build or one run of tests


def mistakes():
    """The entries of the list: name, file, old, new, and `pytest` (arguments) or `unit` (a filter of swift test)."""
    found = tomllib.loads(LIST.read_text())["mistake"]
    names = [entry["name"] for entry in found]
    assert len(set(names)) == len(names), "two mistakes have one name"
    return found


def misfit(entry):
    """Why the entry cannot be put into the code as it stands, or None."""
    path = ROOT / entry["file"]
    if not path.is_file():
        return f"{entry['file']} does not exist"
    count = path.read_text().count(entry["old"])
    if count != 1:
        return f"its text occurs {count} times in {entry['file']}"
    if entry["old"] == entry["new"] or not ("pytest" in entry or "unit" in entry):
        return "it changes nothing, or names no tests"
    return None


def call(command, folder, **environment):
    """Whether the command succeeds, and the end of what it printed."""
    try:
        result = subprocess.run(
            command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=LIMIT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return False, f"no end within {LIMIT} s"
    return result.returncode == 0, result.stdout[-2000:]


def passes(entry, folder):
    """Builds the tree in `folder` and runs the entry's tests: whether they pass; "broken" when it does not compile."""
    if "unit" in entry:
        built, output = call(["swift", "build", "--build-tests"], folder)
        return call(["swift", "test", "--skip-build", "--filter", entry["unit"]], folder, SWIFT_BACKTRACE="enable=no")[0] if built else "broken"
    built, output = call(BUILD, folder)
    if not built:
        return "broken"
    binary = folder / ".build" / "debug" / "workspacekit"
    return call([PYTHON, "-m", "pytest", "-q", "-x", *entry["pytest"]], folder, WORKSPACEKIT_BIN=str(binary))[0]


def copy_tree(folder):
    """The tree as git knows it, with what is not committed."""
    names = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only whether each mistake still fits the code")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    chosen = [entry for entry in mistakes() if not options.names or entry["name"] in options.names]
    misfits = [f"{entry['name']}: {why}" for entry in chosen if (why := misfit(entry))]
    if misfits or options.check:
        print("\n".join(misfits) or f"{len(chosen)} mistakes fit the code")
        return 1 if misfits else 0
    folder = pathlib.Path(tempfile.mkdtemp(prefix="wk-mistakes-"))
    noticed = tried = 0
    try:
        copy_tree(folder)
        for entry in chosen:
            path = folder / entry["file"]
            right = path.read_text()
            before = passes(entry, folder)
            path.write_text(right.replace(entry["old"], entry["new"]))
            after = passes(entry, folder) if before is True else None
            path.write_text(right)
            verdict = ("its tests fail without it" if before is not True else "does not compile" if after == "broken"
                       else "NOT noticed" if after else "noticed")
            tried += verdict in ("noticed", "NOT noticed")
            noticed += verdict == "noticed"
            print(f"{entry['name']}: {verdict}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{noticed} of {tried} noticed ({len(chosen) - tried} not tried)")
    return 0 if tried == len(chosen) and noticed * 10 >= tried * 9 else 1


if __name__ == "__main__":
    sys.exit(main())
