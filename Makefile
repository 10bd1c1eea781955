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
	$(MAKE) deny

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(MCP_OAUTH_CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

$(CARGO_DENY):
	@echo "building cargo-deny $(CARGO_DENY_VERSION), once, about 5 minutes"
	CARGO_TARGET_DIR=$(MCP_OAUTH_CACHE)/build/cargo-deny cargo install cargo-deny --quiet --locked --version $(CARGO_DENY_VERSION) --root $(dir $(CARGO_DENY))..
	rm -rf $(MCP_OAUTH_CACHE)/build/cargo-deny

.PHONY: deny
deny: $(CARGO_DENY) ## Check the dependencies' licences, sources and bans, and advisories if their database can be had
	$(CARGO_DENY) --log-level error check bans licenses sources

.PHONY: generate
generate: ## Write the CRDs, and what the chart has in common with config/
	cargo run --quiet --bin mcp-oauth-operator -- crds --directory crds
	hack/generate-chart.sh

.PHONY: check-generated
check-generated: generate ## Fail if what is generated has not been committed
	@git add --intent-to-add crds charts
	git diff --exit-code -- crds charts

E2E := cargo run --quiet --package e2e --bin e2e --

.PHONY: cluster-up
cluster-up: ## Bring up a Kubernetes cluster on this machine (needs root; RUN=name for another one beside it)
	@$(E2E) cluster up $(if $(RUN),--run $(RUN))

.PHONY: cluster-down
cluster-down: ## End that cluster and all that runs with it
	@$(E2E) cluster down $(if $(RUN),--run $(RUN))

.PHONY: demo
demo: ## Show the main job end to end on real parts, and leave it running to try (needs root on Linux)
	@$(E2E) demo up $(if $(RUN),--run $(RUN))

.PHONY: demo-down
demo-down: ## End the demo and leave nothing behind
	@$(E2E) demo down $(if $(RUN),--run $(RUN))

.PHONY: bench
bench: ## Measure the proxy beside nginx and write bench/RESULTS.md (needs nginx and wrk)
	$(E2E) bench

.PHONY: test
test: ## Set up what is needed and run every test (needs root on Linux)
	@echo "[1/4] formatting, lints, dependencies"
	@$(MAKE) --no-print-directory lint
	@echo "[2/4] what is generated"
	@$(MAKE) --no-print-directory check-generated
	@echo "[3/4] unit tests"
	cargo test --workspace --lib --bins
	cargo build --bin mcp-oauth-operator
	@echo "[4/4] tests on the bed: a real Kubernetes, issuer, browser, clients and Context Forge"
	cargo test --package e2e --test cluster --test standalone
	$(E2E) test
