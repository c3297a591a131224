# Two commands do everything: `make run` and `make test`. Each installs what it needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run build test bench lint sim torment chaos setup setup-test

# RocksDB is built once for a machine and linked by every later build.
ROCKSDB = ROCKSDB_LIB_DIR="$$(deploy/rocksdb.sh)" && export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
CARGO = $(ROCKSDB) && cargo
RUNNER = $(if $(shell command -v cargo-nextest),nextest run --no-fail-fast,test --no-fail-fast)

help: ## Shows this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup:
	@deploy/packages.sh build

setup-test: setup
	@deploy/packages.sh test

build: setup ## Builds target/release/holdfast and target/release/hf
	@$(CARGO) build --release --locked -p holdfast-server -p holdfast-client-cli

run: build ## Builds and starts a whole system in one process
	@target/release/holdfast dev $(ARGS)

test: setup-test build ## Runs every test
	@$(CARGO) run --release --locked -q -p xtask -- tidy
	@$(CARGO) $(RUNNER) --release --locked --workspace

sim: setup ## Runs the simulator: make sim SEEDS=1000 START=0 CASES=1000000
	@HOLDFAST_SIM_SEEDS=$(or $(SEEDS),1000) HOLDFAST_SIM_START=$(or $(START),0) bash -c '$(CARGO) test --release --locked -p holdfast-chaos-tests-sim -- --nocapture'
	@HOLDFAST_SYNC_CASES=$(or $(CASES),1000000) bash -c '$(CARGO) test --release --locked -p holdfast-client-sync --test model -- --nocapture'

torment: setup-test build ## Kills devices and their server among people at work: make torment SEEDS=50 START=1
	@HOLDFAST_TORMENT_SEEDS=$(or $(SEEDS),50) HOLDFAST_TORMENT_START=$(or $(START),1) bash -c '$(CARGO) test --release --locked -p holdfast-server --test sync_torment -- --nocapture'

chaos: setup-test build ## Torments a cluster in network namespaces: make chaos SECONDS=600 SEED=1, PREVIOUS=COMMIT for an upgrade among the faults
	@$(CARGO) build --release --locked -p holdfast-chaos-tests-cluster
	@target/release/holdfast-chaos --seconds $(or $(SECONDS),300) --seed $(or $(SEED),1) \
		$(if $(PREVIOUS),--previous "$$(deploy/previous.sh $(PREVIOUS))")

bench: setup ## Measures every figure beside its budget
	@$(CARGO) bench --locked -p holdfast-erasure
	@$(CARGO) bench --locked -p holdfast-gateway-md5
	@$(CARGO) bench --locked -p holdfast-gateway-policy
	@$(CARGO) bench --locked -p holdfast-net
	@$(CARGO) bench --locked -p holdfast-server

lint: setup ## rustfmt, clippy with warnings denied, tidy, cargo-deny where it is installed
	@cargo fmt --all --check
	@$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	@$(CARGO) run --release --locked -q -p xtask -- tidy
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@cargo deny --locked check licenses bans sources
