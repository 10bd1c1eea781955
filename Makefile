# All tasks. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Cache of tools, downloads and build results, keyed by version and shared by all clones.
export MCP_OAUTH_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mcp-oauth-operator
export CARGO_TARGET_DIR ?= $(MCP_OAUTH_CACHE)/target

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Clones share the target directory, and Cargo would reuse another clone's e2e binary, which contains that clone's path.
# So the first build after another clone's build recompiles the workspace crates; dependencies are kept.
.PHONY: claim-target
claim-target:
	@if [ "$$(cat $(CARGO_TARGET_DIR)/clone 2>/dev/null)" != "$(CURDIR)" ]; then \
	mkdir -p $(CARGO_TARGET_DIR) && find src tests e2e -name '*.rs' -exec touch {} + && echo $(CURDIR) > $(CARGO_TARGET_DIR)/clone; \
	fi

.PHONY: build
build: claim-target ## Build the binary for this machine
	cargo build --bin mcp-oauth-operator

.PHONY: unit
unit: claim-target ## Run the unit and integration tests of the crate (needs only Rust)
	cargo test --package mcp-oauth-operator

.PHONY: dev
dev: claim-target ## Serve the sample without a cluster: log in as anybody@jomcgi.dev (UPSTREAM=http://... for another upstream, FILE=...)
	cargo run --quiet --bin mcp-oauth-operator -- dev --file $(or $(FILE),config/samples/mcp-oauth-proxy.yaml) --upstream $(or $(UPSTREAM),demo)

.PHONY: lint
lint: claim-target ## Check formatting, clippy and the dependency rules
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo clippy --package mcp-oauth-operator --lib --bins -- --deny warnings
	cargo clippy --package mcp-oauth-operator --lib --features fuzzing -- --deny warnings
	cargo clippy --package mcp-oauth-operator --lib --tests --features opentelemetry -- --deny warnings
	$(MAKE) deny

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(MCP_OAUTH_CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

$(CARGO_DENY):
	@echo "building cargo-deny $(CARGO_DENY_VERSION) (once, about 5 minutes)"
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/cargo-deny cargo install cargo-deny --quiet --locked --version $(CARGO_DENY_VERSION) --root $(dir $(CARGO_DENY))..
	rm -rf $(MCP_OAUTH_CACHE)/build/cargo-deny

.PHONY: deny
deny: $(CARGO_DENY) ## Check licences, sources and bans of the dependencies, and advisories if their database is reachable
	$(CARGO_DENY) --log-level error check bans licenses sources
	@if $(CARGO_DENY) --log-level off fetch db >/dev/null 2>&1; \
	then echo "$(CARGO_DENY) check advisories" && $(CARGO_DENY) --log-level error check advisories; \
	else echo "ADVISORIES NOT CHECKED: the RustSec database cannot be fetched"; fi

# One build for all packages: separate builds would unify features differently and recompile dependencies.
BUILD := cargo build --quiet --workspace --bins
PROGRAMS := $(CARGO_TARGET_DIR)/debug

.PHONY: generate
generate: claim-target ## Write the CRDs, docs/reference.md, and the chart's copies of crds/ and config/
	@$(BUILD)
	$(PROGRAMS)/mcp-oauth-operator crds --directory crds
	$(PROGRAMS)/e2e reference docs/reference.md
	hack/generate-chart.sh

.PHONY: check-generated
check-generated: ## Fail if generated files are out of date, and update them
	@before=$$(mktemp -d) && trap 'rm -rf "$$before"' EXIT && cp -r crds charts docs/reference.md "$$before" \
	&& $(MAKE) --no-print-directory generate \
	&& diff -r "$$before/crds" crds && diff -r "$$before/charts" charts \
	&& diff "$$before/reference.md" docs/reference.md \
	|| { echo "generated files were out of date and have been updated: commit them"; exit 1; }

E2E := $(BUILD) && $(PROGRAMS)/e2e
# Only one clone builds and runs at a time, because clones share the cache. --close prevents background processes from
# holding the lock.
LOCKED := mkdir -p $(CARGO_TARGET_DIR) && flock --close $(CARGO_TARGET_DIR)/in-use $(MAKE) --no-print-directory

.PHONY: cluster-up
cluster-up: claim-target ## Start a Kubernetes cluster on this machine (needs root; RUN=name for an additional one)
	@$(E2E) cluster up $(if $(RUN),--run $(RUN))

.PHONY: cluster-down
cluster-down: claim-target ## Stop that cluster and remove everything it created
	@$(E2E) cluster down $(if $(RUN),--run $(RUN))

.PHONY: demo
demo: ## Run the main use case on real components and leave it running (needs root on Linux)
	@$(LOCKED) demo-steps

.PHONY: demo-steps
demo-steps: claim-target
	@echo "building the demo's programs (4 minutes the first time)"
	@$(E2E) demo up $(if $(RUN),--run $(RUN))

.PHONY: demo-down
demo-down: claim-target ## Stop the demo and remove everything it created
	@$(E2E) demo down $(if $(RUN),--run $(RUN))

.PHONY: image
image: claim-target ## Build the image and print its path (for docker load, ctr image import, kind load)
	@$(E2E) image

# Optimised, so that the harness does not distort measurements.
HARNESS := echo "building the harness (4 minutes the first time)" \
	&& cargo build --quiet --profile harness --package e2e && $(CARGO_TARGET_DIR)/harness/e2e

.PHONY: bench
bench: ## Benchmark the proxy against nginx and write bench/RESULTS.md (ONLY="P1 P5" prints only those; needs nginx, wrk and root)
	@$(LOCKED) bench-steps

.PHONY: bench-steps
bench-steps: claim-target
	@$(HARNESS) bench $(ONLY)

.PHONY: soak
soak: ## Load the proxy, including slow clients, and write bench/SOAK.md (MINUTES=30)
	@$(LOCKED) soak-steps

.PHONY: soak-steps
soak-steps: claim-target
	@$(HARNESS) soak $(if $(MINUTES),--minutes $(MINUTES))

CARGO_FUZZ_VERSION := 0.13.2
CARGO_FUZZ := $(MCP_OAUTH_CACHE)/tools/cargo-fuzz-$(CARGO_FUZZ_VERSION)/bin/cargo-fuzz
FUZZ_TARGETS = $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))

$(CARGO_FUZZ):
	@echo "building cargo-fuzz $(CARGO_FUZZ_VERSION) (once, about 2 minutes)"
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/cargo-fuzz cargo install cargo-fuzz --quiet --locked --version $(CARGO_FUZZ_VERSION) --root $(dir $(CARGO_FUZZ))..
	rm -rf $(MCP_OAUTH_CACHE)/build/cargo-fuzz

# No sanitizer: it needs an unstable compiler, and the crate has no unsafe code.
.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## Fuzz the parsers of untrusted input (SECONDS_EACH=60; TARGET=one of them)
	@set -e; for target in $(or $(TARGET),$(FUZZ_TARGETS)); do \
	echo "$$target: $(or $(SECONDS_EACH),60) s"; \
	corpus=$(MCP_OAUTH_CACHE)/fuzz/$$target; mkdir -p $$corpus; \
	cp fuzz/corpus/$$target/* $$corpus; tar -xzf fuzz/corpus/$$target.tar.gz -C $$corpus; \
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/fuzz $(CARGO_FUZZ) run --sanitizer none $$target $$corpus -- \
	-max_total_time=$(or $(SECONDS_EACH),60) -max_len=4096 -print_final_stats=1; \
	done

# Minimise the inputs that runs found and store them as the corpus.
.PHONY: fuzz-keep
fuzz-keep: $(CARGO_FUZZ)
	@set -e; for target in $(or $(TARGET),$(FUZZ_TARGETS)); do \
	least=$$(mktemp -d); trap 'rm -rf "$$least"' EXIT; \
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/fuzz $(CARGO_FUZZ) run --sanitizer none $$target $$least $(MCP_OAUTH_CACHE)/fuzz/$$target -- -set_cover_merge=1; \
	tar -C $$least --sort=name --owner=0 --group=0 --mtime=@0 -czf fuzz/corpus/$$target.tar.gz .; \
	done

.PHONY: test
test: ## Run every test (needs root on Linux)
	@$(LOCKED) test-steps

.PHONY: test-steps
test-steps: claim-target
	@echo "[1/5] formatting, lints, dependencies"
	@$(MAKE) --no-print-directory lint
	@echo "[2/5] generated files"
	@$(MAKE) --no-print-directory check-generated
	@echo "[3/5] unit and integration tests"
	cargo test --workspace --lib --bins
	cargo test --package mcp-oauth-operator --test '*'
	cargo test --package e2e --test architecture
	cargo test --package mcp-oauth-operator --test server --features opentelemetry traces
	@echo "[4/5] components of the test bed: built and downloaded once, 10 minutes the first time"
	@$(E2E) prepare
	@echo "[5/5] tests against real components: Kubernetes, issuer, browser, clients and Context Forge"
	cargo test --workspace --test cluster --test standalone --test dev --test monitoring
	$(E2E) test
