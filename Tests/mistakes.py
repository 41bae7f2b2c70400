#!/usr/bin/env python3
"""Puts small mistakes into the code, one at a time, and tells which of them the tests notice.

    Tests/mistakes.py                 all of Tests/mistakes.toml, each with its tests
    Tests/mistakes.py --check         only whether each still fits the code, which `make test` asks too
    Tests/mistakes.py NAME...         these

Each runs in a copy of the tree, with a debug build of its own, so that nothing of the tree changes. A mistake is noticed when
its tests pass without it and fail with it; what each test says without a mistake is found out once. Ends with 1 when fewer than
nine in ten are noticed, or when some could not be tried. No mistake is begun once the time (--minutes) is up."""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIST = ROOT / "Tests" / "mistakes.toml"
BUILD = ["swift", "build", "--product", "workspacekit", "-Xswiftc", "-static-executable", "-Xswiftc", "-use-ld=lld"]
# Other flags make another build of everything: each kind has a folder of its own.
UNIT = ["--scratch-path", ".build/mistakes-unit"]
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
    if entry["old"] == entry["new"] or ("pytest" in entry) == ("unit" in entry):
        return "it changes nothing, or does not name tests of one kind"
    return missing_tests(entry)


def missing_tests(entry):
    """Which tests the entry names that do not exist, or None."""
    if "unit" in entry:
        suites = "".join(path.read_text() for path in (ROOT / "Tests").rglob("*.swift"))
        return None if f"struct {entry['unit']} " in suites else f"there is no suite {entry['unit']}"
    file, *rest = entry["pytest"]
    if not (ROOT / file).is_file():
        return f"{file} does not exist"
    words = set(re.findall(r"\w+", rest[1] if rest else "")) - {"and", "or", "not"}
    text = (ROOT / file).read_text()
    unknown = sorted(word for word in words if word not in text)
    return f"{file} has no {', '.join(unknown)}" if unknown else None


def call(command, folder, **environment):
    """Whether the command succeeds. Whatever it has started ends with it."""
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(LIMIT) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def builds(entry, folder):
    return call(["swift", "build", "--build-tests", *UNIT] if "unit" in entry else BUILD, folder)


def tests_of(entry):
    return ("unit", entry["unit"]) if "unit" in entry else ("pytest", *entry["pytest"])


def passes(tests, folder):
    kind, *words = tests
    if kind == "unit":
        return call(["swift", "test", "--skip-build", *UNIT, "--filter", *words], folder, SWIFT_BACKTRACE="enable=no")
    binary = folder / ".build" / "debug" / "workspacekit"
    return call([PYTHON, "-m", "pytest", "-q", "-x", *words], folder, WORKSPACEKIT_BIN=str(binary))


def copy_tree(folder):
    """The tree as git knows it, with what is not committed."""
    names = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def try_out(entry, folder, right_results):
    """What becomes of the mistake: a word for it."""
    tests = tests_of(entry)
    if not right_results[tests]:
        return "its tests fail without it"
    path = folder / entry["file"]
    right = path.read_text()
    path.write_text(right.replace(entry["old"], entry["new"]))
    try:
        if not builds(entry, folder):
            return "does not compile"
        return "NOT noticed" if passes(tests, folder) else "noticed"
    finally:
        path.write_text(right)


def try_all(chosen, folder, deadline):
    """Tries mistakes until the deadline; the word for each."""
    verdicts = {}
    for kind in ("unit", "pytest"):
        entries = [entry for entry in chosen if kind in entry]
        right_results = {}
        if entries and not builds(entries[0], folder):
            sys.exit(f"the code does not build ({kind})")
        for entry in entries:
            if time.monotonic() < deadline and tests_of(entry) not in right_results:
                right_results[tests_of(entry)] = passes(tests_of(entry), folder)
        for entry in entries:
            if time.monotonic() >= deadline:
                return verdicts
            verdicts[entry["name"]] = try_out(entry, folder, right_results)
            print(f"{entry['name']}: {verdicts[entry['name']]}", flush=True)
    return verdicts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only whether each mistake still fits the code")
    parser.add_argument("--minutes", type=int, default=120, help="the time after which no mistake is begun (120)")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    entries = mistakes()
    unknown = set(options.names) - {entry["name"] for entry in entries}
    if unknown:
        parser.error(f"no such mistake: {', '.join(sorted(unknown))}")
    chosen = [entry for entry in entries if not options.names or entry["name"] in options.names]
    misfits = [f"{entry['name']}: {why}" for entry in chosen if (why := misfit(entry))]
    if misfits or options.check:
        print("\n".join(misfits) or f"{len(chosen)} mistakes fit the code")
        return 1 if misfits else 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the copy goes then, too
    folder = pathlib.Path(tempfile.mkdtemp(prefix="wk-mistakes-"))
    try:
        copy_tree(folder)
        verdicts = try_all(chosen, folder, time.monotonic() + options.minutes * 60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    noticed = sum(verdict == "noticed" for verdict in verdicts.values())
    tried = noticed + sum(verdict == "NOT noticed" for verdict in verdicts.values())
    print(f"{noticed} of {tried} noticed ({len(chosen) - tried} not tried)")
    return 0 if tried == len(chosen) and noticed * 10 >= tried * 9 else 1


if __name__ == "__main__":
    sys.exit(main())
