# workspacekit: make run, make test. Everything else is detail: make help.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BUILD_PACKAGES := libyaml-dev libcap-dev pkg-config binutils
RUN_PACKAGES := uidmap python3
TEST_PACKAGES := $(RUN_PACKAGES) python3-pytest python3-jsonschema busybox-static bsdutils util-linux strace iproute2 nftables iputils-ping dnsutils curl procps groff-base zsh fish podman crun rootlesskit python3-scapy traceroute mtr-tiny isc-dhcp-client tshark iperf3
CONTAINER_PACKAGES := chromium docker.io iptables debootstrap netavark aardvark-dns wireguard-go wireguard-tools nebula openvpn python3-yaml
BENCH_PACKAGES := slirp4netns passt rootlesskit tini

# Compiled for size, which costs the forwarder nothing that can be measured (make bench). A function a section, so that
# what is not called is not linked. Nothing here unwinds its stack, so the tables for that (1.5 MB) are left to the
# unstripped file, which a debugger wants anyway.
SMALL := -Xswiftc -Osize -Xswiftc -Xfrontend -Xswiftc -function-sections $(addprefix -Xlinker ,--gc-sections --icf=all -O2 --build-id=none --no-eh-frame-hdr)

# apt-get is asked only for what is missing. Nothing of it starts as a service: tests use no dockerd but their own.
define install
	@missing=""; for package in $(1); do [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null)" = installed ] || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; policy=/usr/sbin/policy-rc.d; \
	[ -e $$policy ] || { printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee $$policy >/dev/null && $(SUDO) chmod 755 $$policy && trap "$(SUDO) rm -f $$policy" EXIT; }; \
	$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
endef

.PHONY: help
help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

.PHONY: build
build: ## the static release binary, stripped: dist/workspacekit
	$(call install,$(BUILD_PACKAGES))
	@mkdir -p dist
	swift build -c release --product workspacekit -Xswiftc -static-executable -Xswiftc -use-ld=lld $(SMALL) 2>&1 | { grep -v -e 'statically linked applications requires' -e 'is dangerous' -e Compiling || true; }
	strip -R .eh_frame -o dist/workspacekit.new .build/release/workspacekit && mv dist/workspacekit.new dist/workspacekit
	@ls -l dist/workspacekit | awk '{printf "dist/workspacekit: %.1f MB\n", $$5 / 1e6}'

.PHONY: run
run: build ## bring up examples/.gitpod.yml; Ctrl-C ends it
	$(call install,$(RUN_PACKAGES))
	dist/workspacekit run --workspace examples

.PHONY: test
test: build unit ## unit tests and end-to-end tests
	$(call install,$(TEST_PACKAGES) $(CONTAINER_PACKAGES))
	$(SUDO) /usr/bin/python3 -m pytest -q -ra Tests/EndToEnd

.PHONY: test-containers
test-containers: build ## only those in the wild: Docker inside and outside, Podman, VPNs, Kubernetes, the Dockerfile's image
	$(call install,$(TEST_PACKAGES) $(CONTAINER_PACKAGES))
	$(SUDO) /usr/bin/python3 -m pytest -q -ra $(addprefix Tests/EndToEnd/test_,$(addsuffix .py,doctor containers docker image kubernetes vpn writable browser))

.PHONY: unit
unit: ## unit tests: pure, no privileges
	$(call install,$(BUILD_PACKAGES))
	SWIFT_BACKTRACE=enable=no swift test --quiet

.PHONY: fuzz
SECONDS ?= 60
FUZZ_CORPUS_configuration := Tests/ConfigTests/Golden
FUZZ_CORPUS_imports := Tests/ConfigTests/Imports
FUZZ_CORPUS_wire := Tests/Fuzz/Corpus/wire
FUZZ_CORPUS_frames := Tests/Fuzz/Corpus/frames
FUZZ_CORPUS_names := Tests/Fuzz/Corpus/names
FUZZ_CORPUS_leases := Tests/Fuzz/Corpus/leases
FUZZ_CORPUS_requests := Tests/Fuzz/Corpus/requests
FUZZ_TARGETS ?= configuration imports wire names leases requests frames
# Frames are forwarded: in a network namespace of nothing but lo, where every address of the lab is this machine's.
FUZZ_RUN_frames := unshare --user --map-root-user --net sh -c 'ip link set lo up && ip route add local 198.18.0.0/15 dev lo && \
ip -6 route add local fd18::/16 dev lo && FUZZ_NAMESPACE=1 exec "$$@"' sh
fuzz: ## configuration, imports, codecs, names, leases, the API and frames, with libFuzzer, SECONDS each; finds are left in .build/fuzz
	$(call install,$(BUILD_PACKAGES))
	FUZZ=1 swift build --scratch-path .build/fuzz/build --product fuzz --sanitize=fuzzer
	@$(foreach target,$(FUZZ_TARGETS),mkdir -p .build/fuzz/$(target) && echo "fuzzing $(target)" && \
	FUZZ_TARGET=$(target) SWIFT_BACKTRACE=enable=no $(FUZZ_RUN_$(target)) .build/fuzz/build/debug/fuzz -max_total_time=$(SECONDS) -max_len=4096 -timeout=10 \
	-rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix=.build/fuzz/ .build/fuzz/$(target) $(FUZZ_CORPUS_$(target)) 2>&1 | \
	grep -E "ERROR|SUMMARY|Fatal|artifact|number_of_executed_units|DONE" && ) true

.PHONY: soak
SOAK_SECONDS ?= 120
soak: build ## 300 services that crash at random, SOAK_SECONDS long
	SOAK_SECONDS=$(SOAK_SECONDS) /usr/bin/python3 -m pytest -q Tests/EndToEnd/test_soak.py

.PHONY: load
LOAD_SECONDS ?= 600
load: build ## bulk, short connections, datagrams and look-ups at once, LOAD_SECONDS long: nothing is left afterwards
	$(SUDO) env LOAD_SECONDS=$(LOAD_SECONDS) /usr/bin/python3 -m pytest -q -s Tests/EndToEnd/test_load.py

.PHONY: mistakes
mistakes: ## put the mistakes of Tests/mistakes.toml into a copy of the code, one at a time: the tests must notice nine in ten
	$(call install,$(BUILD_PACKAGES) $(TEST_PACKAGES))
	$(SUDO) /usr/bin/python3 Tests/mistakes.py $(NAMES)

# Calls that wait for another process, and where the loops are.
WAITS := \b(waitReadable|waitWritable|pause|writeLine|writeAll)\(|receive\(within|next\(within|waits: true
LOOPS := Sources/Supervisor Sources/Ring Sources/Slirp Sources/Control Sources/Kernel Sources/workspacekit/WorkspaceRun.swift \
	Sources/workspacekit/WorkspaceSession.swift Sources/workspacekit/FixedForwards.swift Sources/workspacekit/Init Sources/workspacekit/Slirp4netns

.PHONY: lint
lint: ## formatting, and the rules that only a grep can keep
	swift format lint --strict --recursive Package.swift Sources Tests Tools
	@! grep -rnE '^\s*(internal |public |private )?import (Foundation|Dispatch)$$' Sources || { echo "no Foundation or Dispatch"; exit 1; }
	@! grep -rnE '\b(Task|actor) *[{(]|\bawait [A-Za-z_.]+[({]' Sources --include=*.swift || { echo "no concurrency in a stage"; exit 1; }
	@! grep -rln 'import CKernel' Sources | grep -v '^Sources/Kernel/' || { echo "only Kernel imports CKernel"; exit 1; }
	@diff <(grep -v '^#' Tools/waits.txt | cut -d' ' -f1 | sort) <(grep -rcE --include=*.swift '$(WAITS)' $(LOOPS) | grep -v ':0$$' | sort) || \
	{ echo "a loop never waits for another process: a call that comes before or after it is counted in Tools/waits.txt"; exit 1; }

.PHONY: format
format: ## format everything
	swift format --in-place --recursive Package.swift Sources Tests Tools

.PHONY: bench
bench: build ## side by side with slirp4netns, pasta and rootlesskit, as ratios
	$(call install,$(TEST_PACKAGES) $(CONTAINER_PACKAGES) $(BENCH_PACKAGES))
	$(SUDO) /usr/bin/python3 Benchmarks/bench.py

.PHONY: docs
docs: build ## regenerate what docs/ holds of the binary's help and of the configuration's table
	@mkdir -p docs/man
	swift build --quiet --product configuration-docs
	@.build/debug/configuration-docs markdown > docs/configuration.md && echo docs/configuration.md
	@.build/debug/configuration-docs man > docs/man/workspacekit.yml.5 && echo docs/man/workspacekit.yml.5
	@python3 docs/generate.py markdown dist/workspacekit > docs/commands.md && echo docs/commands.md
	@python3 docs/generate.py man dist/workspacekit > docs/man/workspacekit.1 && echo docs/man/workspacekit.1

.PHONY: clean
clean: ## remove what was built
	rm -rf .build dist
