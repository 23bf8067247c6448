# Everything a developer types. Each target installs what it needs and can be repeated.

CARGO ?= cargo
# Where `make run` keeps its data.
DATA_DIR ?= data
# The profile of everything that tests run: see CONTRIBUTING.md.
TEST_PROFILE ?= test
# Where cargo puts what it builds in it.
TEST_DIR = $(or $(CARGO_TARGET_DIR),target)/$(if $(filter test dev,$(TEST_PROFILE)),debug,$(TEST_PROFILE))

# Seeds that `make sim` runs.
SEEDS ?= 10000

# How long `make chaos` breaks things, and the seed that says what; without one, it is drawn.
SECONDS ?= 600
SEED ?=

# Suites of Kafka clients that `make conformance` runs: short, quick, all, or their names.
SUITES ?= quick

.PHONY: help run test long lint fmt model sim e2e skew chaos conformance bench rolling chart-test image

help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Build in release and start a standalone server on DATA_DIR (default: data)
	@.ci/install build
	$(CARGO) build --release --locked -p geminga
	@$(CARGO) run --quiet --release --locked -p geminga -- standalone --data-dir $(DATA_DIR)

test: ## Everything that must pass: format, clippy, all tests of all packages, other people's Kafka clients
	@.ci/install test
	@.ci/lint
	$(CARGO) test --workspace --locked --no-fail-fast --profile $(TEST_PROFILE)
	GEMINGA_BIN=$(TEST_DIR)/geminga tests/conformance/run --tolerant all

long: ## Tests that take too long for every change (marked #[ignore])
	@.ci/install test
	$(CARGO) test --workspace --locked --no-fail-fast --profile $(TEST_PROFILE) -- --ignored --skip skew::

lint: ## Format check, dependency direction, clippy, cargo-deny when installed
	@.ci/install build
	@.ci/lint

fmt: ## Format all code
	$(CARGO) fmt --all

model: ## Model check the ledger protocol, also at sizes that take many minutes
	@.ci/install build
	$(CARGO) run --release --locked -p geminga-model

sim: ## Simulate the ledger protocol and the log under faults: SEEDS seeds (default: 10000)
	@.ci/install build
	$(CARGO) run --release --locked -p geminga-sim -- --seeds $(SEEDS)

e2e: ## Only the end-to-end tests, on real processes
	@.ci/install test
	$(CARGO) build --locked --profile $(TEST_PROFILE) --bin geminga
	$(CARGO) test --locked --profile $(TEST_PROFILE) -p geminga-e2e

skew: ## An earlier build beside today's: upgrades and ways back, under load (builds the earlier one first)
	@.ci/install test
	TEST_PROFILE=$(TEST_PROFILE) tests/skew/run

chaos: ## Break a cluster for SECONDS (default: 600) as SEED says, and judge what its clients saw
	@.ci/install test
	$(CARGO) build --locked --profile $(TEST_PROFILE) --bin geminga
	$(CARGO) run --locked --profile $(TEST_PROFILE) -p geminga-chaos --bin chaos -- --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

conformance: ## Other people's Kafka clients and suites: SUITES (default: quick) against a standalone
	@.ci/install test
	$(CARGO) build --release --locked -p geminga
	tests/conformance/run $(SUITES)

bench: ## Throughput against what the disk can do (see docs/performance.md)
	@.ci/install test
	$(CARGO) build --release --locked -p geminga
	tests/bench/run

rolling: ## Restart every server under load of both protocols: what clients see, and how long it takes
	@.ci/install test
	$(CARGO) build --release --locked --bin geminga --bin bench-load
	tests/bench/run rolling

chart-test: ## Render the Helm chart in all its shapes, check it, and start as processes what it would start
	@.ci/install chart
	tests/chart/run render
	$(CARGO) build --workspace --locked --profile $(TEST_PROFILE) --bin geminga
	GEMINGA_BIN=$(TEST_DIR)/geminga tests/chart/run start

image: ## Build the container image into target/image/geminga.tar and run it, without a container engine (as root)
	@.ci/install test
	deploy/image/build
	tests/image/run
