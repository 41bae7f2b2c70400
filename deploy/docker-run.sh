#!/bin/sh
# Runs an image whose entry point is workspacekit with the least privileges that give a whole workspace:
#
#     deploy/docker-run.sh IMAGE                         # the tasks of its /workspace/.gitpod.yml
#     DOCKER_FLAGS="-it -v $PWD:/workspace" deploy/docker-run.sh IMAGE
#
# Each flag says what it is for. Without one the workspace is less, and says so: "workspacekit doctor".
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# SETUID, SETGID: to write the workspace's id maps. SYS_CHROOT: for dockerd inside, which unpacks images in a chroot.
# SETFCAP: to keep the container's root as the workspace's; without it root inside is another user outside.
image=${1:?"usage: $0 IMAGE [ARGUMENT...]"}
shift
tun=
if [ -e /dev/net/tun ]; then tun="--device /dev/net/tun"; fi
# shellcheck disable=SC2086
exec "${DOCKER:-docker}" run --rm \
    --cap-drop ALL --cap-add SETUID --cap-add SETGID --cap-add SETFCAP --cap-add SYS_CHROOT \
    --security-opt no-new-privileges \
    --security-opt "seccomp=$here/seccomp.json" \
    --security-opt apparmor=unconfined \
    --security-opt systempaths=unconfined \
    --sysctl net.ipv4.ping_group_range="0 65535" \
    $tun ${DOCKER_FLAGS:-} "$image" "$@"
