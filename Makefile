# The commands of this repository. `make help` lists them.

# `release` or `dev`. Dependencies are optimised in both.
PROFILE ?= release
# With ONCE=1, `make demo` checks everything and ends.
ONCE ?=
# What the fuzzers try; see the scripts.
TARGET ?=
TIME ?= 60
EXAMPLES ?= 20
# How often `make properties` goes round.
ROUNDS ?= 10

# What `make simulate` runs: so many seeds from the first on that has all that there is, or only one.
SEEDS ?= 10000
FROM ?= 3000000
SEED ?=

# Lints are errors with the compiler that they were settled with. A newer one knows more of them, and only tells.
RUST := $(shell sed -n 's/^rust-version = "\(.*\)"$$/\1/p' Cargo.toml)
LINTS := $(if $(findstring rustc $(RUST).,$(shell rustc --version 2>/dev/null)),-D warnings)

BINARIES := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: help demo test test-postgres properties simulate fuzz fuzz-api bench bench-cluster bench-containers bench-swarm bench-git dist fmt lint guests setup build clean
.DEFAULT_GOAL := help

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## Start a platform here and deploy the examples; ONCE=1 checks them and ends, PROFILE=dev builds faster
	@scripts/setup.sh demo
	cargo build --locked --profile $(PROFILE) -p wharf
	@WHARF=$(BINARIES)/wharf ONCE=$(ONCE) scripts/demo.sh

# The guests come after `wharf`, which makes components of core modules, and before the tests, which deploy them. Everything is
# built by one command, because `cargo build -p wharf` chooses other features of dependencies and would build many of them twice.
# A change is judged by the same random cases each time; `make properties` looks for others.
test: export PROPTEST_RNG_SEED ?= 1
test: ## Check format and lints, run all tests, and the demo once
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory lint
	cargo build --locked --workspace --all-targets
	WHARF=$(CURDIR)/target/debug/wharf scripts/guest-examples.sh
	scripts/object-storage.sh install
	cargo test --locked --workspace
	scripts/test-postgres.sh
	cd examples && cargo test --locked -p wharf-sdk -p guestbook -p voting -p voting-app-result -p voting-app-vote
	cd examples && cargo test --locked -p wharf-sdk --no-default-features --features p3
	WHARF=target/debug/wharf ONCE=1 scripts/demo.sh

test-postgres: ## Run what is about PostgreSQL on a newer one than this machine has, which is fetched
	@scripts/setup.sh test
	cargo build --locked --workspace --all-targets
	WHARF=$(CURDIR)/target/debug/wharf scripts/guest-examples.sh
	bin=$$(scripts/postgres-newer.sh) && export WHARF_TEST_POSTGRES_BIN=$$bin && scripts/test-postgres.sh && \
		cargo test --locked --workspace --test cluster_servers --test cluster_upgrade --test cluster_versions_servers --test chaos

properties: ## Give property tests other random cases each time, until one fails or ROUNDS are over; a seed that fails is kept
	@scripts/setup.sh build
	for round in $$(seq $(ROUNDS)); do cargo test --locked --workspace --lib || exit 1; done

simulate: ## Run SEEDS seeds of the simulator from FROM on, or only SEED with all that happens in it; PROFILE=dev builds faster
	@scripts/setup.sh build
	cargo build --locked --profile $(PROFILE) -p wharf-simulator
	$(BINARIES)/wharf-simulator $(or $(SEED),$(FROM) $(SEEDS))

fuzz: ## Give the parsers to a fuzzer, or one: TARGET=types/manifest; TIME=60 is how many seconds each gets
	@scripts/setup.sh build
	scripts/fuzz.sh $(TARGET) $(TIME)

fuzz-api: ## Ask a fresh platform what its OpenAPI document allows and forbids; SEED and EXAMPLES choose what
	@scripts/setup.sh test
	cargo build --locked --workspace --all-targets
	SEED=$(or $(SEED),1) EXAMPLES=$(EXAMPLES) scripts/fuzz-api.sh

bench: ## Measure what docs/promises.md promises, of target/release/wharf or of the binary WHARF
	@scripts/setup.sh demo
	scripts/bench.sh

bench-cluster: ## Measure what the loss of a host costs, of target/release/wharf: takes root, and five minutes
	cargo build --locked --release -p wharf --bin wharf
	scripts/bench_cluster.py target/release/wharf target/guests

bench-git: ## Measure what `git push` costs, of target/release/wharf
	cargo build --locked --release -p wharf --bin wharf
	scripts/bench_git.py target/release/wharf target/guests

bench-containers: ## Measure containers beside Docker Swarm and nginx, of target/release/wharf: takes root, an engine and five minutes
	scripts/docker.sh install && scripts/docker.sh start
	for tool in wrk nginx cc:gcc; do command -v $${tool%:*} >/dev/null || scripts/apt-install.sh $${tool#*:}; done
	cargo build --locked --release -p wharf --bin wharf
	scripts/bench_containers.py target/release/wharf

bench-swarm: ## Measure how one control plane bears a thousand workers with 100,000 instances: takes root, and some minutes
	cargo build --locked --release --workspace --bin wharf --example swarm
	scripts/bench_swarm.py target/release/wharf target/release/examples/swarm target/guests

fmt: ## Format everything
	cargo fmt --all
	cd fuzz && cargo fmt
	cd examples && cargo fmt --all

lint: ## Check format and lints only
	cargo fmt --all --check
	cd fuzz && cargo fmt --check
	cd examples && cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- $(LINTS)
	cd examples && cargo clippy --locked --workspace --all-targets -- $(LINTS)

guests: ## Build the examples into target/guests
	@scripts/setup.sh test
	cargo build --locked -p wharf
	WHARF=$(CURDIR)/target/debug/wharf scripts/guest-examples.sh

setup: ## Install everything that the other commands need
	@scripts/setup.sh test

build: ## Build the `wharf` command
	@scripts/setup.sh build
	cargo build --locked --profile $(PROFILE) -p wharf

dist: ## Build target/dist/wharf as it is released: guided by a profile, which takes half an hour
	@scripts/setup.sh demo
	scripts/pgo.sh

clean: ## Remove everything that was built
	cargo clean
	rm -rf examples/target examples/*/app.wasm examples/*/*/app.wasm examples/*/.venv examples/*/node_modules
