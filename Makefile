# Longshore. `make run` shows it, `make test` proves it; `make help` lists the rest. Longer things are named scripts.

# The architecture to build for: the host's, or any other that Rust has a musl target for.
ARCH ?= $(shell uname -m)
BUILT = $(abspath $(or $(CARGO_TARGET_DIR),target))/dist/$(ARCH)
DESTDIR ?=
PREFIX ?= /usr/local

TOOLCHAIN := $(shell dist/build/toolchain.sh)
ifneq ($(TOOLCHAIN),)
export RUSTUP_TOOLCHAIN := $(TOOLCHAIN)
endif

.DEFAULT_GOAL := help
.PHONY: help run release agent size reproduce dist install check test test-all bench fuzz clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "  make %-9s %s\n", $$1, $$2 }'

run: ## a Panel, an Agent and one demo game server on this machine; Ctrl-C ends them
	@tests/support/with-engine.sh tests/support/run.sh

release: ## both binaries as they ship, static, under target/dist; ARCH=aarch64 for another machine
	@dist/build/release.sh $(ARCH)

agent:
	@PROGRAMS=agent dist/build/release.sh $(ARCH)

size: agent ## whether the Agent keeps to its budget, and what weighs most
	@dist/build/size.sh $(ARCH)

reproduce: ## builds twice, with everything different that should not matter, and compares the sums
	@dist/build/reproduce.sh

dist: release ## an archive with the licences, a list of what is linked in, SHA256SUMS
	@dist/build/package.sh $(ARCH)

install: ## the binaries of `make release`, units, man pages, completions; DESTDIR and PREFIX as usual
	@dist/build/install-files.sh "$(BUILT)" "$(DESTDIR)" "$(PREFIX)"

check: ## formatting, lints and documentation, each without a warning, and what is linked in
	cargo fmt --check
	cargo clippy --locked --quiet --all-targets -- -D warnings
	cargo clippy --locked --quiet --no-default-features --lib --bin longshore-agent -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet --no-deps
	@dist/build/deny.sh

test: ## every test, against a real Docker Engine
	@tests/support/with-engine.sh cargo test --locked --no-fail-fast

test-all: test size reproduce ## that, then what takes minutes: load on the Agent as it ships, its size, builds that must be the same
	@LONGSHORE_AGENT=$(BUILT)/longshore-agent tests/support/with-engine.sh \
	  cargo test --locked --profile bench --test load --test anywhere -- --test-threads=1 --nocapture

bench: agent ## the Agent as it ships, measured against the bare Engine API
	@LONGSHORE_AGENT=$(BUILT)/longshore-agent tests/support/with-engine.sh cargo bench --locked --quiet --bench agent

SECONDS_EACH ?= 600
fuzz: ## every decoder against hostile input, SECONDS_EACH=600 for each; make fuzz TARGETS='frames lines'
	@tests/fuzz/run.sh $(SECONDS_EACH) $(TARGETS)

clean: ## everything that was built or started here
	@tests/support/engine.sh remove
	cargo clean
