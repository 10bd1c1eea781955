# Every task a person runs. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Tools, downloads and build results are kept here by version, so that a second clone or run is quick.
export MCP_OAUTH_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mcp-oauth-operator
export CARGO_TARGET_DIR ?= $(MCP_OAUTH_CACHE)/target

# Cargo takes what another clone has built for ours if our files are older, but the bed knows its clone's folder from its
# build. So whoever comes after another clone builds its own crates anew; dependencies stay.
ifneq ($(shell cat $(CARGO_TARGET_DIR)/clone 2>/dev/null),$(CURDIR))
$(shell mkdir -p $(CARGO_TARGET_DIR) && find src e2e -name '*.rs' -exec touch {} + && echo $(CURDIR) > $(CARGO_TARGET_DIR)/clone)
endif

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the binary for this machine
	cargo build --bin mcp-oauth-operator

.PHONY: unit
unit: ## Run the unit tests, which need nothing but Rust
	cargo test --package mcp-oauth-operator

.PHONY: dev
dev: ## Serve the sample here, without a cluster: log in as anybody@jomcgi.dev (UPSTREAM=http://... to forward elsewhere, FILE=...)
	cargo run --quiet --bin mcp-oauth-operator -- dev --file $(or $(FILE),config/samples/mcp-oauth-proxy.yaml) --upstream $(or $(UPSTREAM),demo)

.PHONY: lint
lint: ## Check formatting, clippy's lints and the dependency rules
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo clippy --package mcp-oauth-operator --lib --features fuzzing -- --deny warnings
	cargo clippy --package mcp-oauth-operator --lib --tests --features opentelemetry -- --deny warnings
	$(MAKE) deny

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(MCP_OAUTH_CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

$(CARGO_DENY):
	@echo "building cargo-deny $(CARGO_DENY_VERSION), once, about 5 minutes"
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/cargo-deny cargo install cargo-deny --quiet --locked --version $(CARGO_DENY_VERSION) --root $(dir $(CARGO_DENY))..
	rm -rf $(MCP_OAUTH_CACHE)/build/cargo-deny

.PHONY: deny
deny: $(CARGO_DENY) ## Check the dependencies' licences, sources and bans, and advisories where their database can be had
	$(CARGO_DENY) --log-level error check bans licenses sources
	@if $(CARGO_DENY) --log-level off fetch db >/dev/null 2>&1; \
	then echo "$(CARGO_DENY) check advisories" && $(CARGO_DENY) --log-level error check advisories; \
	else echo "ADVISORIES NOT CHECKED: the database of RustSec cannot be fetched from here"; fi

# All packages at once: built apart, they would have their dependencies with other features, and so build them again.
BUILD := cargo build --quiet --workspace --bins
PROGRAMS := $(CARGO_TARGET_DIR)/debug

.PHONY: generate
generate: ## Write the CRDs, and what the chart has in common with config/
	@$(BUILD)
	$(PROGRAMS)/mcp-oauth-operator crds --directory crds
	hack/generate-chart.sh

.PHONY: check-generated
check-generated: ## Fail if what is generated is not up to date; it is afterwards
	@before=$$(mktemp -d) && trap 'rm -rf "$$before"' EXIT && cp -r crds charts "$$before" \
	&& $(MAKE) --no-print-directory generate \
	&& diff -r "$$before/crds" crds && diff -r "$$before/charts" charts \
	|| { echo "what is generated was not up to date; it is now: commit it"; exit 1; }

E2E := $(BUILD) && $(PROGRAMS)/e2e
# One clone at a time builds and runs, for all share the cache. What it starts and leaves running does not keep the others.
LOCKED := mkdir -p $(CARGO_TARGET_DIR) && flock --close $(CARGO_TARGET_DIR)/in-use $(MAKE) --no-print-directory

.PHONY: cluster-up
cluster-up: ## Bring up a Kubernetes cluster on this machine (needs root; RUN=name for another one beside it)
	@$(E2E) cluster up $(if $(RUN),--run $(RUN))

.PHONY: cluster-down
cluster-down: ## End that cluster and all that runs with it
	@$(E2E) cluster down $(if $(RUN),--run $(RUN))

.PHONY: demo
demo: ## Show the main job end to end on real parts, and leave it running to try (needs root on Linux)
	@$(LOCKED) demo-steps

.PHONY: demo-steps
demo-steps:
	@echo "building the demo's own programs (4 minutes the first time)"
	@$(E2E) demo up $(if $(RUN),--run $(RUN))

.PHONY: demo-down
demo-down: ## End the demo and leave nothing behind
	@$(E2E) demo down $(if $(RUN),--run $(RUN))

.PHONY: image
image: ## Build the operator's image, and say where it lies (docker load, ctr image import and kind take it)
	@$(E2E) image

# Quick enough to be no part of what it measures.
HARNESS := echo "building the harness (4 minutes the first time)" \
	&& cargo build --quiet --profile harness --package e2e && $(CARGO_TARGET_DIR)/harness/e2e

.PHONY: bench
bench: ## Measure the proxy beside nginx and write bench/RESULTS.md (ONLY="P1 P5" prints those alone; needs nginx, wrk and root)
	@$(LOCKED) bench-steps

.PHONY: bench-steps
bench-steps:
	@$(HARNESS) bench $(ONLY)

.PHONY: soak
soak: ## Load the proxy, slow clients among it, and write bench/SOAK.md (MINUTES=30)
	@$(LOCKED) soak-steps

.PHONY: soak-steps
soak-steps:
	@$(HARNESS) soak $(if $(MINUTES),--minutes $(MINUTES))

CARGO_FUZZ_VERSION := 0.13.2
CARGO_FUZZ := $(MCP_OAUTH_CACHE)/tools/cargo-fuzz-$(CARGO_FUZZ_VERSION)/bin/cargo-fuzz
FUZZ_TARGETS := $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))

$(CARGO_FUZZ):
	@echo "building cargo-fuzz $(CARGO_FUZZ_VERSION), once, about 2 minutes"
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/cargo-fuzz cargo install cargo-fuzz --quiet --locked --version $(CARGO_FUZZ_VERSION) --root $(dir $(CARGO_FUZZ))..
	rm -rf $(MCP_OAUTH_CACHE)/build/cargo-fuzz

# No sanitizer: those need an unstable compiler, and there is no unsafe code of ours to find.
.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## Feed the parsers of what strangers and upstreams say with odd input (SECONDS_EACH=60; TARGET=one of them)
	@set -e; for target in $(or $(TARGET),$(FUZZ_TARGETS)); do \
	echo "$$target: $(or $(SECONDS_EACH),60) s"; \
	corpus=$(MCP_OAUTH_CACHE)/fuzz/$$target; mkdir -p $$corpus; \
	cp fuzz/corpus/$$target/* $$corpus; tar -xzf fuzz/corpus/$$target.tar.gz -C $$corpus; \
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/fuzz $(CARGO_FUZZ) run --sanitizer none $$target $$corpus -- \
	-max_total_time=$(or $(SECONDS_EACH),60) -max_len=4096 -print_final_stats=1; \
	done

# What a run has found worth keeping, smallest first, for the next one.
.PHONY: fuzz-keep
fuzz-keep: $(CARGO_FUZZ)
	@set -e; for target in $(or $(TARGET),$(FUZZ_TARGETS)); do \
	least=$$(mktemp -d); trap 'rm -rf "$$least"' EXIT; \
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/fuzz $(CARGO_FUZZ) run --sanitizer none $$target $$least $(MCP_OAUTH_CACHE)/fuzz/$$target -- -set_cover_merge=1; \
	tar -C $$least --sort=name --owner=0 --group=0 --mtime=@0 -czf fuzz/corpus/$$target.tar.gz .; \
	done

.PHONY: test
test: ## Set up what is needed and run every test (needs root on Linux)
	@$(LOCKED) test-steps

.PHONY: test-steps
test-steps:
	@echo "[1/5] formatting, lints, dependencies"
	@$(MAKE) --no-print-directory lint
	@echo "[2/5] what is generated"
	@$(MAKE) --no-print-directory check-generated
	@echo "[3/5] unit tests"
	cargo test --workspace --lib --bins
	cargo test --package mcp-oauth-operator --lib --features opentelemetry traces
	@echo "[4/5] what the test bed is made of: built and fetched once, 10 minutes the first time"
	@$(E2E) prepare
	@echo "[5/5] tests on the bed: a real Kubernetes, issuer, browser, clients and Context Forge"
	cargo test --workspace --test cluster --test standalone --test dev --test monitoring
	$(E2E) test
