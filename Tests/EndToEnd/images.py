"""Root file systems for the tests' images."""

import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile

BUSYBOX_APPLETS = ("sh", "id", "wget", "httpd", "mkdir", "sleep", "cat", "ps", "ip", "mount", "setsid", "stat", "readlink", "df", "dd", "head", "nc", "ls", "ping", "wc")


def busybox_root(root):
    """Two megabytes that can do most of what a test wants."""
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in BUSYBOX_APPLETS:
        os.symlink("busybox", root / "bin" / applet)
    return root


def docker_archive(layer, archive):
    """The tar of a root file system as an image that `docker load` and `ctr images import` take."""
    data = pathlib.Path(layer).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    configuration = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
                                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}).encode()
    name = hashlib.sha256(configuration).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": ["docker.io/library/base:1"], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        for path, content in ((name, configuration), ("layer.tar", data), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


REPOSITORY = pathlib.Path(__file__).parents[2]
# For workspaces: users, packages, Docker. For the Dockerfile's build stage: what `make build` and the toolchain want.
DEBIAN_PACKAGES = ("ca-certificates libcap2-bin docker.io iptables nftables uidmap sudo adduser iproute2 procps busybox-static curl iputils-ping "
                   "make libyaml-dev libcap-dev pkg-config binutils gcc g++ git libcurl4 libxml2 libedit2 libsqlite3-0 libncurses6 tzdata zlib1g-dev").split()


def has_room(place, gibibytes):
    """Whether the disk has so much left."""
    return shutil.disk_usage(place).free > gibibytes << 30


def debian_tar():
    """Debian's root file system with the packages above, made once for each checkout; None where it cannot be had."""
    place = REPOSITORY / ".build/test-images"
    if not shutil.which("debootstrap") or not has_room(REPOSITORY, 4):
        return None
    name = hashlib.sha256(" ".join(DEBIAN_PACKAGES).encode()).hexdigest()[:12]
    made = place / f"debian-{name}.tar"
    if made.exists():
        return made
    place.mkdir(parents=True, exist_ok=True)
    root = place / "debian"
    shutil.rmtree(root, ignore_errors=True)
    # Mounts of its own: a run that is killed leaves none.
    command = ["unshare", "--mount", "--propagation", "private", "debootstrap", "--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}", "bookworm", root]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if result.returncode != 0:
        return None
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    subprocess.run(["tar", "--numeric-owner", "--xattrs", "-C", root, "-cf", f"{made}.new", "."], check=True)
    shutil.rmtree(root)
    os.rename(f"{made}.new", made)
    return made


# What compiles and links needs none of these.
NOT_OF_THE_TOOLCHAIN = ("usr/lib/swift/embedded", "usr/lib/swift/FrameworkABIBaseline", "usr/lib/liblldb*", "usr/lib/libsourcekitd*", "usr/lib/libclang.so*", "usr/lib/libSwiftSourceKit*",
                        "usr/bin/sourcekit-lsp", "usr/bin/clangd", "usr/bin/docc", "usr/bin/lldb*", "usr/bin/swift-format", "usr/bin/wasmkit", "usr/bin/swift-build-sdk-interfaces")


def toolchain_context(folder, base):
    """A build context whose image is `base` with this machine's Swift, and with what git finds elsewhere than where it says."""
    folder.mkdir()
    swift = pathlib.Path(shutil.which("swiftc")).resolve().parents[1]
    exclude = [f"--exclude={pattern}" for pattern in NOT_OF_THE_TOOLCHAIN]
    subprocess.run(["tar", *exclude, "-C", swift.parent, "-cf", folder / "swift.tar", "usr"], check=True)
    lines = [f"FROM {base}", "ADD swift.tar /opt/swift", "ENV PATH=/opt/swift/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    rules = subprocess.run(["git", "config", "--get-regexp", r"^url\..*\.insteadof$"], capture_output=True, text=True).stdout
    for number, rule in enumerate(rules.splitlines()):
        key, _, pattern = rule.partition(" ")
        place = key[len("url."):-len(".insteadof")]
        if place.startswith("/") and os.path.isdir(place):
            subprocess.run(["tar", "-C", place, "-cf", folder / f"mirror{number}.tar", "."], check=True)
            lines += [f"ADD mirror{number}.tar {place}", f"RUN git config --system --add {key} {pattern} && git config --system --replace-all safe.directory '*'"]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    return folder
