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

FROM ${BASE}
COPY --from=build /src/dist/workspacekit /usr/bin/workspacekit
# A container has no CAP_SYS_ADMIN, and without it newuidmap works by file capabilities only: for images whose user is not root.
RUN if command -v newuidmap >/dev/null && command -v setcap >/dev/null; then chmod u-s "$(command -v newuidmap)" "$(command -v newgidmap)" && \
    setcap cap_setuid=ep "$(command -v newuidmap)" && setcap cap_setgid=ep "$(command -v newgidmap)"; fi
WORKDIR /workspace
ENTRYPOINT ["/usr/bin/workspacekit", "run"]
