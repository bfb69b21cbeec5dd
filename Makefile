# The entry points; each calls one script or one cargo command.
# Needs Debian 12, rustup, Go and make; "tools" makes the rest.

PINKEEPER_CACHE ?= $(HOME)/.cache/pinkeeper
CARGO_TARGET_DIR ?= $(PINKEEPER_CACHE)/target
export PINKEEPER_CACHE CARGO_TARGET_DIR

RUST_TARGET := x86_64-unknown-linux-musl
LOCAL := e2e/local

.DEFAULT_GOAL := help
.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## Install packages; build Kubernetes, Helm and Kubo into the cache (once, about 8 minutes)
	@$(LOCAL)/tools.sh

.PHONY: build-tools
build-tools:
	@$(LOCAL)/tools.sh build

.PHONY: build
build: build-tools ## Build the static pinkeeper binary
	cargo build --target $(RUST_TARGET) -p pinkeeper-operator --bin pinkeeper

RELEASE := $(CARGO_TARGET_DIR)/$(RUST_TARGET)/release
.PHONY: release
release: build-tools ## Build the static binary with optimisation across crates (first time 10 minutes)
	PINKEEPER_COMMIT=$(shell git rev-parse --short=12 HEAD) \
	  cargo build --release --target $(RUST_TARGET) -p pinkeeper-operator --bin pinkeeper
	@echo "the binary: $(RELEASE)/pinkeeper"

.PHONY: demo
demo: tools build ## Show the main job on a local Kubernetes (first time up to 25 minutes, then 3)
	@$(LOCAL)/demo.sh up

.PHONY: demo-down
demo-down: ## Remove all that the demo made
	@$(LOCAL)/demo.sh down

.PHONY: images
images: tools release ## Make the container image of the optimised build; import it if the local cluster is up
	@$(LOCAL)/images.sh pause kubo release

.PHONY: cluster
cluster: tools ## Start a local Kubernetes of one node, without Docker
	@$(LOCAL)/cluster.sh up

.PHONY: cluster-down
cluster-down: ## Stop the local Kubernetes and remove everything it made
	@$(LOCAL)/cluster.sh down

.PHONY: generate
generate: build-tools ## Write crds/, the chart's copy of them and manifests/install.yaml anew
	PINKEEPER_GENERATE=1 cargo test -p pinkeeper-operator --test crds committed
	PINKEEPER_GENERATE=1 cargo test -p pinkeeper-operator --test chart committed

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: fix
fix: ## Apply what clippy can mend by itself, then format
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

.PHONY: verify
verify: build-tools ## Check format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# Long searches are several times as fast with our code optimised, which takes some minutes to build.
OPTIMISED := CARGO_PROFILE_DEV_OPT_LEVEL=1

.PHONY: damage
damage: build-tools ## Cut and flip every byte of every store, not a sample (four minutes)
	$(OPTIMISED) PINKEEPER_SOAK=1 \
	  cargo test -p pinkeeper --lib -- --nocapture damage cut_anywhere damaged_anywhere

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: build-tools ## Search inputs that make a reader panic: make fuzz FUZZ_SECONDS=600
	@$(LOCAL)/fuzz.sh $(FUZZ_SECONDS)

soak: damage fuzz

.PHONY: test
test: ## Run every test; the last line says how many passed and failed
	@$(LOCAL)/test.sh

SEEDS ?= 200
FROM ?= 0
.PHONY: sim
sim: build-tools ## Run simulated worlds, of peers, logs and pods: make sim SEEDS=1000 FROM=5000
	PINKEEPER_SIM_SEEDS=$(SEEDS) PINKEEPER_SIM_FROM=$(FROM) \
	  cargo test -p pinkeeper --lib -- --nocapture sim:: in_every_world
	PINKEEPER_SIM_SEEDS=$(SEEDS) PINKEEPER_SIM_FROM=$(FROM) \
	  cargo test -p pinkeeper-operator --test worlds -- --nocapture in_every

.PHONY: planted
planted: build-tools ## Prove that simulated worlds find planted defects (e2e/planted)
	@$(LOCAL)/planted.sh

SINCE ?=
.PHONY: mutants
mutants: build-tools ## List mistakes that no test notices: make mutants SINCE=main~3; without SINCE ten hours
	@$(LOCAL)/mutants.sh $(if $(SINCE),--since $(SINCE))

.PHONY: soak
soak: ## Run the long tests: 2,000 worlds of each kind, planted defects, damage, fuzzing, faults; mutants beside them (50 minutes)
	@$(LOCAL)/mutants.sh --beside $(MAKE) --no-print-directory searches

.PHONY: searches
searches: build-tools
	@$(OPTIMISED) $(MAKE) --no-print-directory sim SEEDS=2000 FROM=1000
	$(OPTIMISED) PINKEEPER_SOAK=1 cargo test -p pinkeeper --lib -- machine::model sim::levels
	@$(MAKE) --no-print-directory planted

ROWS ?=
RUNS ?= 5
.PHONY: bench
bench: tools ## Measure speed into docs/benchmarks.md (17 minutes); one row: make bench ROWS=accepted RUNS=1
	cargo build --release --target $(RUST_TARGET) \
	  -p pinkeeper-operator --bin pinkeeper -p pinkeeper-e2e --bin bench
	@PINKEEPER_BINARY=$(RELEASE)/pinkeeper PINKEEPER_BENCH_RUNS=$(RUNS) $(RELEASE)/bench $(ROWS)

MINUTES ?= 10
.PHONY: faults
faults: build ## Put random faults on real peers: make faults MINUTES=60 PINKEEPER_SEED=7
	PINKEEPER_SOAK=$(MINUTES) cargo test -p pinkeeper-e2e --test faults -- --nocapture random_faults

soak: faults

.PHONY: clean
clean: cluster-down ## Remove the cluster, images, logs and Rust builds; keep the built tools
	rm -rf $(PINKEEPER_CACHE)/images $(PINKEEPER_CACHE)/logs $(CARGO_TARGET_DIR) \
	  $(PINKEEPER_CACHE)/planted $(PINKEEPER_CACHE)/planted-programs $(PINKEEPER_CACHE)/target-planted \
	  $(PINKEEPER_CACHE)/mutants/copy $(PINKEEPER_CACHE)/target-mutants
