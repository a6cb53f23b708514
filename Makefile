# Longshore. `make run` shows it, `make test` proves it; `make help` lists the rest. Longer things are named scripts.

# The binaries that ship are static, so that they run on any Linux of the architecture.
TARGET ?= $(shell uname -m)-unknown-linux-musl
BUILT = $(abspath $(or $(CARGO_TARGET_DIR),target))/$(TARGET)/release
# ring has some C, which any C compiler of the host can build for musl.
export CC_$(subst -,_,$(TARGET)) ?= $(shell command -v musl-gcc || echo cc)

.DEFAULT_GOAL := help
.PHONY: help run build agent panel target check test test-all bench fuzz clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "  make %-8s %s\n", $$1, $$2 }'

run: ## a Panel, an Agent and one demo game server on this machine; Ctrl-C ends them
	@tests/support/with-engine.sh tests/support/run.sh

build: agent panel ## both binaries, static, as they ship
	@ls -l $(BUILT)/longshore-agent $(BUILT)/longshore-panel

# The Agent leaves the feature `panel` out.
agent: target
	cargo build --locked --release --target $(TARGET) --no-default-features --bin longshore-agent

panel: target
	cargo build --locked --release --target $(TARGET) --features panel --bin longshore-panel

target:
	@rustup target list --installed 2>/dev/null | grep -qx $(TARGET) || rustup target add $(TARGET) || \
	{ echo 'Rust for $(TARGET) is missing: install it, or choose another with make TARGET=…' >&2; exit 1; }

check: ## formatting, lints and documentation, each without a warning
	cargo fmt --check
	cargo clippy --locked --quiet --all-targets -- -D warnings
	cargo clippy --locked --quiet --no-default-features --lib --bin longshore-agent -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet --no-deps

test: ## every test, against a real Docker Engine
	@tests/support/with-engine.sh cargo test --locked --no-fail-fast

test-all: test agent ## the same, then what takes minutes, against the Agent as it ships
	@LONGSHORE_AGENT=$(BUILT)/longshore-agent tests/support/with-engine.sh \
	  cargo test --locked --profile bench --test load -- --test-threads=1 --nocapture

bench: agent ## the Agent as it ships, measured against the bare Engine API
	@LONGSHORE_AGENT=$(BUILT)/longshore-agent tests/support/with-engine.sh cargo bench --locked --quiet --bench agent

SECONDS_EACH ?= 600
fuzz: ## every decoder against hostile input, SECONDS_EACH=600 for each; make fuzz TARGETS='frames lines'
	@tests/fuzz/run.sh $(SECONDS_EACH) $(TARGETS)

clean: ## everything that was built or started here
	@tests/support/engine.sh remove
	cargo clean
