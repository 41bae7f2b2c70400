"""deploy/kubernetes: by the API's rules, and by running its pod's container as a kubelet would, in a Docker with user namespaces."""

import copy
import json
import re
import subprocess
import time

import pytest

from conftest import PYTHON, until
from containers import DEPLOY, needs_docker, remapped_engine, removed_afterwards
from test_containers import import_image

yaml = pytest.importorskip("yaml")
kubernetes = pytest.importorskip("kubernetes_rules")


def documents():
    found = []
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        found += list(yaml.safe_load_all(path.read_text()))
    return found


def pods():
    return [document["spec"].get("template", document)["spec"] for document in documents() if document["kind"] in ("Pod", "StatefulSet")]


def test_the_manifests_keep_to_the_apis_rules():
    kinds = {document["kind"] for document in documents()}
    assert kinds == {"Pod", "StatefulSet", "Service", "ConfigMap", "DaemonSet"}
    assert kubernetes.problems(documents()) == []


BREAKAGES = {
    "an unknown field": lambda pod: pod.update(hostUser=False),
    "a type": lambda pod: pod.update(hostUsers="no"),
    "unmasked without users of its own": lambda pod: pod.pop("hostUsers"),
    "a mount of nothing": lambda pod: pod["volumes"].pop(),
    "a profile without a file": lambda pod: pod["containers"][0]["securityContext"]["seccompProfile"].pop("localhostProfile"),
    "a capability with its prefix": lambda pod: pod["containers"][0]["securityContext"]["capabilities"]["add"].append("CAP_SETUID"),
    "a quantity": lambda pod: pod["containers"][0]["resources"]["limits"].update(memory="4GB"),
    "a probe without a command": lambda pod: pod["containers"][0]["readinessProbe"].pop("exec"),
    "more than the limit": lambda pod: pod["containers"][0]["resources"]["requests"].update(memory="5Gi"),
    "two of one name": lambda pod: pod["containers"].append(copy.deepcopy(pod["containers"][0])),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_the_validator_sees(breakage):
    broken = documents()
    BREAKAGES[breakage](next(document for document in broken if document["kind"] == "Pod")["spec"])
    assert kubernetes.problems(broken)


def test_what_is_shared_is_the_same():
    made = subprocess.run([PYTHON, DEPLOY / "seccomp.py", "kubernetes"], check=True, capture_output=True, text=True).stdout
    assert made == (DEPLOY / "kubernetes/seccomp-daemonset.yaml").read_text()
    carried = next(document for document in documents() if document["metadata"]["name"] == "workspace-seccomp" and document["kind"] == "ConfigMap")
    assert json.loads(carried["data"]["workspace.json"]) == json.loads((DEPLOY / "seccomp.json").read_text())
    # One pod and many get the same.
    one, many = (pod["containers"][0] for pod in pods())
    for key in ("securityContext", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "resources"):
        assert one[key] == many[key], key
    capabilities = one["securityContext"]["capabilities"]["add"]
    script = (DEPLOY / "docker-run.sh").read_text()
    assert set(capabilities) == set(re.findall(r"--cap-add (\w+)", script)) - {"ALL"}


def flags_of(pod):
    """The pod's container as `docker run` has it; hostUsers: false is the engine's userns-remap."""
    container = pod["containers"][0]
    security = container["securityContext"]
    assert security["seccompProfile"]["localhostProfile"] == "profiles/workspace.json"
    flags = ["--user", str(security["runAsUser"]), "--security-opt", f"seccomp={DEPLOY}/seccomp.json", "--workdir", container["workingDir"]]
    if security["procMount"] == "Unmasked":
        flags += ["--security-opt", "systempaths=unconfined"]
    if not security["allowPrivilegeEscalation"]:
        flags += ["--security-opt", "no-new-privileges"]
    for key, flag in (("drop", "--cap-drop"), ("add", "--cap-add")):
        for capability in security["capabilities"][key]:
            flags += [flag, capability]
    for sysctl in pod["securityContext"]["sysctls"]:
        flags += ["--sysctl", f"{sysctl['name']}={sysctl['value']}"]
    for volume in pod["volumes"]:
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            path = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume["name"])
            flags += ["--tmpfs", f"{path}:size={int(kubernetes.amount(volume['emptyDir']['sizeLimit']))},exec"]
    return flags


@needs_docker
def test_the_pod_is_a_whole_workspace_and_its_probes_say_so(lab):
    config = """
tasks: [{name: failing, command: exit 3}]
workspacekit:
  services:
    slow: {command: "sh -c 'sleep 1; touch ready; exec sleep 1000'", healthcheck: {test: [CMD, stat, ready], interval: 1s, retries: 1}, pre_stop: "sh -c 'echo it is orderly >drained'"}
"""
    with remapped_engine(lab, number=2) as engine, removed_afterwards(engine) as name:
        folder = engine.folder
        import_image(engine)
        pod = pods()[1]
        container = pod["containers"][0]
        made = name()
        engine("create", "--name", made, *flags_of(pod), "workspace:1", *container["args"], "--require", "full")
        (folder / "etc").mkdir()
        (folder / "etc/gitpod.yml").write_text(config)
        engine("cp", f"{folder}/etc/.", f"{made}:/etc/workspace")
        engine("start", made)
        probe = lambda kind: engine("exec", made, *container[kind]["exec"]["command"], check=False)
        until(lambda: probe("livenessProbe").returncode == 0, 10, lambda: engine.logs(made))
        early = probe("startupProbe")
        assert early.returncode == 1 and "not ready: slow is " in early.stderr, early
        # The task that failed does not count.
        until(lambda: probe("startupProbe").returncode == 0, 10, lambda: f"{probe('startupProbe')}")
        ready = probe("readinessProbe")
        assert (ready.returncode, ready.stdout, ready.stderr) == (0, "", "")
        engine("exec", made, "workspacekit", "exec", "--", "sh", "-c", "rm /workspace/ready")
        until(lambda: probe("readinessProbe").returncode == 1, 10, "unhealthy")
        assert probe("livenessProbe").returncode == 0
        engine("exec", made, "workspacekit", "exec", "--", "sh", "-c", "ip link set tap0 down")
        until(lambda: "not ready: network: tap0 is down" in probe("readinessProbe").stderr, 5, "the network")
        # The kubelet runs the hook, and sends SIGTERM when it is through.
        begun = time.monotonic()
        engine("exec", made, *container["lifecycle"]["preStop"]["exec"]["command"], check=False)
        until(lambda: engine("inspect", "-f", "{{.State.Status}}", made).stdout == "exited\n", pod["terminationGracePeriodSeconds"], "the end")
        assert time.monotonic() - begun < 12
        assert engine("inspect", "-f", "{{.State.ExitCode}}", made).stdout == "0\n"
        engine("cp", f"{made}:/workspace/drained", folder / "drained")
        assert (folder / "drained").read_text() == "it is orderly\n"

