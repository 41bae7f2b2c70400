#!/bin/sh
# Runs an image whose entry point is workspacekit with the least privileges that give a whole workspace:
#
#     deploy/docker-run.sh IMAGE                         # the tasks of its /workspace/.gitpod.yml
#     DOCKER_FLAGS="-it -v dev:/workspace" deploy/docker-run.sh IMAGE
#
# IMAGE is as the Dockerfile makes it, with a user who is not root; or, where the engine has user namespaces, of its --target
# root. Each flag says what it is for. Without one the workspace is less, and says so: "workspacekit doctor".
set -eu
here=$(cd "$(dirname "$0")" && pwd)
docker=${DOCKER:-docker}
image=${1:?"usage: $0 IMAGE [ARGUMENT...]"}
shift
user=$("$docker" image inspect -f '{{.Config.User}}' "$image" 2>/dev/null) ||
    { "$docker" pull -q "$image" >/dev/null && user=$("$docker" image inspect -f '{{.Config.User}}' "$image"); }
# SETUID, SETGID: to write the workspace's id maps. A user who is not root does that by newuidmap and newgidmap, which have
# these as file capabilities: no-new-privileges would forbid it.
case ${user%%:*} in
# SETFCAP: to keep the container's root as the workspace's; without it root inside is another user outside. SYS_CHROOT: for
# dockerd inside, which unpacks images in a chroot.
'' | 0 | root) rights="--cap-add SETFCAP --cap-add SYS_CHROOT --security-opt no-new-privileges" ;;
*) rights= ;;
esac
tun=
if [ -e /dev/net/tun ]; then tun="--device /dev/net/tun"; fi
# shellcheck disable=SC2086
exec "$docker" run --rm \
    --cap-drop ALL --cap-add SETUID --cap-add SETGID $rights \
    --security-opt "seccomp=$here/seccomp.json" \
    --security-opt apparmor=unconfined \
    --security-opt systempaths=unconfined \
    --sysctl net.ipv4.ping_group_range="0 65535" \
    $tun ${DOCKER_FLAGS:-} "$image" "$@"
