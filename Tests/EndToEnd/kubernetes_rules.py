"""The Kubernetes API's rules for the fields that deploy/kubernetes uses: names, types and values as the API's schema has them,
and what its validation asks beyond (pkg/apis/core/validation and apps/validation). No other field passes."""

import re

import jsonschema

LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"  # RFC 1123
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
PATH = {"type": "string", "pattern": "^/[^:]*$"}
SECONDS = {"type": "integer", "minimum": 1}


def record(required=(), **fields):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": fields}


def listed(items, **more):
    return {"type": "array", "items": items, **more}


name = {"type": "string", "pattern": LABEL}
text = {"type": "string", "minLength": 1}
flag = {"type": "boolean"}
texts = listed({"type": "string"})
labels = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"},
          "propertyNames": {"pattern": r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"}}
quantities = {"type": "object", "additionalProperties": {"type": ["string", "integer"], "pattern": QUANTITY},
              "propertyNames": {"pattern": r"^(cpu|memory|storage|ephemeral-storage|[a-z0-9.-]+/[A-Za-z0-9_.-]+)$"}}
capabilities = listed({"enum": ["ALL", "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW",
                                "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"]})
profile = record(["type"], type={"enum": ["Localhost", "RuntimeDefault", "Unconfined"]}, localhostProfile={"type": "string", "pattern": r"^(?!/)(?!.*\.\.).+$"})
handler = record(exec=record(["command"], command=listed({"type": "string"}, minItems=1)))
probe = record(["exec"], exec=handler["properties"]["exec"], periodSeconds=SECONDS, timeoutSeconds=SECONDS, failureThreshold=SECONDS,
               initialDelaySeconds={"type": "integer", "minimum": 0}, successThreshold=SECONDS)
container = record(
    ["name", "image"], name=name, image=text, command=texts, args=texts, workingDir=PATH,
    securityContext=record(runAsUser={"type": "integer", "minimum": 0}, procMount={"enum": ["Default", "Unmasked"]}, allowPrivilegeEscalation=flag,
                           capabilities=record(add=capabilities, drop=capabilities), seccompProfile=profile, appArmorProfile=profile),
    resources=record(requests=quantities, limits=quantities), ports=listed(record(["containerPort"], name=name, containerPort={"type": "integer", "minimum": 1, "maximum": 65535})),
    startupProbe=probe, readinessProbe=probe, livenessProbe=probe, lifecycle=record(preStop=handler, postStart=handler),
    volumeMounts=listed(record(["name", "mountPath"], name=name, mountPath=PATH, readOnly=flag, subPath=text)))
volume = record(["name"], name=name, emptyDir=record(medium={"enum": ["", "Memory"]}, sizeLimit={"type": "string", "pattern": QUANTITY}),
                configMap=record(["name"], name=name), hostPath=record(["path"], path=PATH, type={"enum": ["", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "CharDevice"]}))
metadata = record(["name"], name=name, labels=labels)
pod = record(
    ["containers"], hostUsers=flag, automountServiceAccountToken=flag, terminationGracePeriodSeconds={"type": "integer", "minimum": 0},
    securityContext=record(sysctls=listed(record(["name", "value"], name={"enum": ["net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"]}, value={"type": "string"}))),
    tolerations=listed(record(operator={"enum": ["Exists", "Equal"]}, key=text)), initContainers=listed(container), containers=listed(container, minItems=1), volumes=listed(volume))
template = record(["metadata", "spec"], metadata=record(["labels"], labels=labels), spec=pod)
selector = record(["matchLabels"], matchLabels=labels)
claim = record(["metadata", "spec"], metadata=metadata, spec=record(
    ["accessModes", "resources"], accessModes=listed({"enum": ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"]}), resources=record(["requests"], requests=quantities)))


def kind(version, name, **fields):
    return record(["apiVersion", "kind", "metadata", *fields], apiVersion={"const": version}, kind={"const": name}, metadata=metadata, **fields)


KINDS = {
    "Pod": kind("v1", "Pod", spec=pod),
    "ConfigMap": kind("v1", "ConfigMap", data={"type": "object", "additionalProperties": {"type": "string"}, "propertyNames": {"pattern": r"^[-._A-Za-z0-9]{1,253}$"}}),
    "Service": kind("v1", "Service", spec=record(["ports", "selector"], clusterIP={"enum": ["None"]}, selector=labels,
                                                 ports=listed(record(["port"], name=name, port={"type": "integer", "minimum": 1, "maximum": 65535})))),
    "StatefulSet": kind("apps/v1", "StatefulSet", spec=record(
        ["selector", "template", "serviceName"], serviceName=name, replicas={"type": "integer", "minimum": 0}, podManagementPolicy={"enum": ["OrderedReady", "Parallel"]},
        selector=selector, template=template, volumeClaimTemplates=listed(claim))),
    "DaemonSet": kind("apps/v1", "DaemonSet", spec=record(["selector", "template"], selector=selector, template=template)),
}


def problems(documents):
    """What an API server would refuse, or a kubelet not start: one text each."""
    found = []
    for document in documents:
        schema = KINDS.get(document.get("kind"))
        if schema is None:
            found.append(f"{document.get('kind')} is not known here")
            continue
        found += [f"{document['kind']} {'.'.join(map(str, error.absolute_path))}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(document)]
    if found:
        return found
    maps = {document["metadata"]["name"] for document in documents if document["kind"] == "ConfigMap"}
    services = {document["metadata"]["name"] for document in documents if document["kind"] == "Service"}
    for document in documents:
        where = f"{document['kind']} {document['metadata']['name']}"
        spec = document.get("spec", {})
        claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
        if "template" in spec:
            wanted, given = spec["selector"]["matchLabels"].items(), spec["template"]["metadata"]["labels"].items()
            if not wanted or not wanted <= given:
                found.append(f"{where}: the selector does not match the template's labels")
            if spec.get("serviceName", None) not in {None, *services}:
                found.append(f"{where}: no Service {spec['serviceName']}")
            spec = spec["template"]["spec"]
        if "containers" in spec:
            found += [f"{where}: {text}" for text in pod_problems(spec, claims, maps)]
    return found


def pod_problems(spec, claims, maps):
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    if len(set(volumes)) != len(volumes):
        yield "two volumes of one name"
    for volume in spec.get("volumes", []):
        if len(volume) != 2:
            yield f"volume {volume['name']} has not just one source"
        if "configMap" in volume and volume["configMap"]["name"] not in maps:
            yield f"no ConfigMap {volume['configMap']['name']}"
    containers = spec.get("initContainers", []) + spec["containers"]
    if len({container["name"] for container in containers}) != len(containers):
        yield "two containers of one name"
    for container in containers:
        security = container.get("securityContext", {})
        if security.get("procMount") == "Unmasked" and spec.get("hostUsers") is not False:
            yield "procMount: Unmasked needs hostUsers: false"
        for key in ("seccompProfile", "appArmorProfile"):
            given = security.get(key, {})
            if (given.get("type") == "Localhost") != ("localhostProfile" in given):
                yield f"{key}: localhostProfile goes with the type Localhost, and with no other"
        if security.get("allowPrivilegeEscalation") is False and "SYS_ADMIN" in security.get("capabilities", {}).get("add", []):
            yield "allowPrivilegeEscalation: false and CAP_SYS_ADMIN"
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if len(set(paths)) != len(paths):
            yield f"{container['name']}: two mounts at one path"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in {*volumes, *claims}:
                yield f"{container['name']}: no volume {mount['name']}"
        for key in ("startupProbe", "livenessProbe"):
            if container.get(key, {}).get("successThreshold", 1) != 1:
                yield f"{container['name']}: {key}: successThreshold must be 1"
        resources = container.get("resources", {})
        for resource, limit in resources.get("limits", {}).items():
            request = resources.get("requests", {}).get(resource)
            if request is not None and amount(request) > amount(limit):
                yield f"{container['name']}: {resource}: more is requested than allowed"
            if "/" in resource and request not in (None, limit):
                yield f"{container['name']}: {resource}: extended resources are not overcommitted"


def amount(quantity):
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity)).groups()
    return float(number) * {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]
