"""workspacekit metrics: Prometheus' text format, by its rules."""

import re

from conftest import PYTHON, until

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.]+(?:e[+-]?[0-9]+)?)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')


def parsed(text):
    """Samples by name and labels; what promtool would complain of fails."""
    samples, family, types = {}, None, {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in types and len(line.split(" ", 3)[3]) > 0
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name == family and kind in ("gauge", "counter")
            assert (kind == "counter") == name.endswith("_total")
            types[name] = kind
        else:
            match = SAMPLE.match(line)
            assert match and match[1] == family and family in types, line
            key = (match[1], tuple(sorted(LABEL.findall(match[2] or ""))))
            assert key not in samples, line
            samples[key] = float(match[3])
    assert all(name.startswith("workspacekit_") for name in types)
    return samples


def test_units_and_ports(workspace):
    space = workspace(f"""
tasks: [{{name: 'say "hi" \\ there', command: "exit 3"}}, {{name: web, command: "exec {PYTHON} -m http.server 8123"}}]
workspacekit:
  services:
    flaky: {{command: "false", restart: always}}
    fine: {{command: sleep 1000, healthcheck: {{test: "true"}}}}
""").started()
    until(lambda: space.status()["flaky"]["restarts"] >= 1 and space.status()["fine"].get("isHealthy"), 10, "a restart and a healthy service")
    until(lambda: parsed(space.cli("metrics").stdout)[("workspacekit_ports_listening", (("transport", "tcp"),))] >= 1, 10, "the port")
    samples = parsed(space.cli("metrics").stdout)
    value = lambda name, unit, kind: samples.get((f"workspacekit_unit_{name}", (("kind", kind), ("unit", unit))))
    odd = 'say \\"hi\\" \\\\ there'
    assert value("last_exit_code", odd, "task") == 3 and value("running", odd, "task") == 0
    assert value("running", "web", "task") == 1 and value("uptime_seconds", "web", "task") > 0
    assert value("restarts_total", "flaky", "service") >= 1
    assert value("healthy", "fine", "service") == 1 and value("ready", "fine", "service") == 1
    assert samples[("workspacekit_stopping", ())] == 0
