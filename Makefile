# SPDX-License-Identifier: Apache-2.0
# `make` lists the targets. The two that a newcomer needs are `make demo` and `make test`.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell sed -n 's/^## \[\([0-9][^]]*\)\].*/\1/p' CHANGELOG.md | head -n 1)
# The release date is a lower bound of the device's clock, so it is part of the binary, and comes from the tree, not the machine.
DATE    ?= $(shell sed -n 's/^## \[[0-9][^]]*\] - \(.*\)/\1/p' CHANGELOG.md | head -n 1)

# FIPS 140-3: v1.0.0 is the validated module; later ones cost 32 MiB of resident memory on the device.
export GOFIPS140 ?= v1.0.0
export CGO_ENABLED ?= 0
LDFLAGS := -s -w -buildid= -X github.com/backstay/backstay/cmd/internal/cli.Version=$(VERSION) -X github.com/backstay/backstay/cmd/internal/cli.Date=$(DATE)
# How the agent is built for flash (arm v7): it asks a few small files of a server, one at a time, and HTTP/2 would cost 512 KiB for
# nothing; without inlining in our own packages it is 770 KiB smaller, and a full check takes a tenth longer.
DEVICE := -tags nethttpomithttp2 -gcflags=github.com/backstay/backstay/...=-l
GOBUILD := go build -trimpath -buildvcs=false -ldflags "$(LDFLAGS)"

# What the device binary is made of: these run on every architecture.
DEVICE_PKGS := ./agent/... ./update ./update/trust ./update/delta ./update/delta/internal/lz ./update/slot ./update/component ./update/boot ./update/floor \
  ./identity ./identity/keys ./identity/est $(filter-out %/configs/scan,$(shell go list ./configs/...)) ./logging ./logging/spool ./logging/ship ./logging/source ./logging/intake ./logging/client ./cmd/internal/cli

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-20s %s\n", $$1, $$2}'

.PHONY: build
build: ## build both binaries for this machine into bin/
	@mkdir -p bin
	$(GOBUILD) $(DEVICE) -o bin/ ./cmd/backstay
	$(GOBUILD) -o bin/ ./cmd/backstayctl

.PHONY: demo
demo: build ## the whole job on this machine: server, three devices, an update, five attacks (under 60 s)
	bin/backstayctl lab --agent bin/backstay

.PHONY: demo-mosquitto
demo-mosquitto: build ## the same over Debian's mosquitto, killed every few seconds
	bin/backstayctl lab --agent bin/backstay --broker mosquitto

.PHONY: test
test: ## install what the tests need, then run all of them
	@testdata/need.sh
	testdata/check.sh
	BACKSTAY_TEST_STRICT=1 go test -timeout 10m ./...
	$(MAKE) --no-print-directory interop conformance-client demo demo-mosquitto arch

.PHONY: interop
interop: ## against other people's code, in modules of their own: the real sigstore, another EST client and server, validators of SARIF and JSON schema
	cd third_party/sigstore/interop && GOFLAGS=-mod=mod go test ./...
	cd identity/est/interop && GOFLAGS=-mod=mod go test ./...
	cd configs/scan/interop && GOFLAGS=-mod=mod go test ./...
	cd configs/examples/nats && GOFLAGS=-mod=mod go vet ./...

.PHONY: arch
arch: ## the device packages' tests as arm v7, mips (big endian) and mipsle programs under emulation
	testdata/arch.sh $(DEVICE_PKGS)

.PHONY: race
race: ## all tests with the race detector
	CGO_ENABLED=1 go test -race -timeout 20m ./...

.PHONY: cut
cut: ## the whole power-cut suite and all deliberate breaks
	BACKSTAY_LONG=1 go test -timeout 60m -run 'Cut|Mutation' ./update/... ./identity/... ./logging/...

.PHONY: soak
soak: ## brokers killed at random for minutes: nothing lost, nothing twice
	BACKSTAY_LONG=1 BACKSTAY_TEST_STRICT=1 go test -timeout 60m -run 'Kill|Soak' ./logging/...

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s)
	testdata/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: ## the benchmarks
	go test -run '^$$' -bench . -benchmem ./...

.PHONY: conformance-client
conformance-client: ## the client for the public TUF conformance suite, from the package the device runs
	@mkdir -p bin
	$(GOBUILD) -o bin/conformance-client ./update/trust/conformance

.PHONY: conformance
conformance: conformance-client ## run that suite: make conformance SUITE=directory with its repositories
	testdata/conformance/run.sh $(SUITE)

.PHONY: size
size: ## bytes of flash and memory of the arm v7 and mipsle binaries
	go test -count=1 -v -run 'TestSizeBudget' ./cmd/backstay | grep -v '^=== '

.PHONY: release
release: ## static stripped device binaries for nine targets, operator binary, checksums and SBOMs into dist/
	testdata/release.sh dist "$(VERSION)" "$(DATE)"

.PHONY: repro
repro: ## build the release twice in different directories and compare
	testdata/repro.sh "$(VERSION)" "$(DATE)"

.PHONY: generate
generate: ## rewrite generated pages and golden files
	go generate ./...
	go test ./... -run 'Golden|Docs' -update

.PHONY: guest
guest: ## what watches the device, on real kernels of other architectures, in QEMU
	testdata/guest/run.sh mipsel ./logging/source
	testdata/guest/run.sh armhf ./logging/source
	testdata/guest/run.sh mipsel ./update/boot -test.run=TestGuest

.PHONY: uboot
uboot: ## thousands of random environments beside the programs of U-Boot (built from source: bison, flex) and libubootenv
	BACKSTAY_LONG=1 go test -timeout 120m -v -run 'TestGolden' ./update/boot

.PHONY: bench-log
bench-log: ## the audit log beside rsyslog and journald: events a second and bytes written (as root)
	go run ./testdata/logbench

.PHONY: bench-update
bench-update: build ## an update of 64 MiB and 1 GiB beside RAUC, SWUpdate, Mender's client and dd (as root; installs them from Debian)
	testdata/bench/update/run.sh -bin bin $(BENCHFLAGS)

.PHONY: attack-matrix
attack-matrix: ## play the same attacks against backstay, RAUC, SWUpdate and Mender's client; rewrites docs/attacks.md (as root)
	testdata/bench/attacks/run.sh > docs/attacks.md.new
	mv docs/attacks.md.new docs/attacks.md
BENCHDIR ?= /tmp/backstay-bench-delta
.PHONY: bench-delta
bench-delta: ## deltas of three pairs of images beside xdelta3, zstd, chunks and block hashes (half an hour; Debian)
	testdata/deltabench/run.sh $(BENCHDIR)
