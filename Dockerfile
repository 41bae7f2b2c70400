# Two images. The last is for an engine as it is installed: its user is not root, and is root of the workspace; the machine's
# root is nowhere in it. The files belong to the ids that their owners are inside, so that apt, sudo and su work there.
#
#     docker build -t workspace --build-arg BASE=your/image .
#
# For an engine with user namespaces (userns-remap, rootless Docker or Podman, podman --userns=auto, hostUsers: false), where
# root is not the machine's, and where there is no room for another range of ids:
#
#     docker build -t workspace --target root --build-arg BASE=your/image .
#
# Both bases are arguments, so that it builds from whatever images are at hand.
ARG BUILD_BASE=swift:6.3-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILD_BASE} AS build
# A base that has everything needs no network here.
RUN dpkg -s make libyaml-dev libcap-dev pkg-config binutils >/dev/null 2>&1 || { apt-get update -qq && \
    apt-get install -y -qq --no-install-recommends make libyaml-dev libcap-dev pkg-config binutils; }
WORKDIR /src
COPY Package.swift Makefile ./
COPY Sources Sources
COPY Tests Tests
COPY Tools Tools
RUN make build

FROM ${BASE} AS root
COPY --from=build /src/dist/workspacekit /usr/bin/workspacekit
WORKDIR /workspace
ENTRYPOINT ["/usr/bin/workspacekit", "run"]

# Everything that is to be installed in the image belongs before this stage: into BASE.
FROM root AS shifted
# The user's number. With that of the one who runs docker, files of a directory of theirs (-v "$PWD:/workspace") are root's inside.
ARG USER_ID=33333
ARG RANGE=100000:65536
RUN command -v newuidmap >/dev/null && command -v setcap >/dev/null || { apt-get update -qq && \
    apt-get install -y -qq --no-install-recommends uidmap libcap2-bin && rm -rf /var/lib/apt/lists/*; }
# Outside it is at home where root inside is.
RUN { id -un "${USER_ID}" >/dev/null 2>&1 || useradd -M -d /root -s /bin/sh -u "${USER_ID}" workspace; } && \
    echo "${USER_ID}:${RANGE}" | tee /etc/subuid >/etc/subgid && \
    workspacekit shift-root --user "${USER_ID}" --range "${RANGE}" /

# One layer, without those in which the files belonged to others. Variables that BASE sets are to be set again here.
FROM scratch
COPY --from=shifted / /
# A container has no CAP_SYS_ADMIN, and without it newuidmap works by file capabilities only; these are for the outside.
RUN for helper in newuidmap:cap_setuid newgidmap:cap_setgid; do path=$(command -v "${helper%:*}") && \
    chown 0:0 "$path" && chmod 755 "$path" && setcap "${helper#*:}=ep" "$path" || exit 1; done
# Commands of every user of the container find the workspace there.
ENV WORKSPACEKIT_STATE_DIR=/run/workspacekit
ARG USER_ID=33333
USER ${USER_ID}:${USER_ID}
WORKDIR /workspace
ENTRYPOINT ["/usr/bin/workspacekit", "run"]
