# Longshore. `make run` shows it, `make test` proves it; `make help` lists the rest. Longer things are named scripts.

.DEFAULT_GOAL := help
.PHONY: help run build check test bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "  make %-7s %s\n", $$1, $$2 }'

run: ## a Panel, an Agent and one demo game server on this machine; Ctrl-C ends them
	@tests/support/with-engine.sh tests/support/run.sh

build: ## both binaries, release profile
	cargo build --locked --release --no-default-features --bin longshore-agent
	cargo build --locked --release --features panel --bin longshore-panel

check: ## formatting, lints and documentation, each without a warning
	cargo fmt --check
	cargo clippy --locked --quiet --all-targets -- -D warnings
	cargo clippy --locked --quiet --no-default-features --lib --bin longshore-agent -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet --no-deps

test: ## every test, against a real Docker Engine
	@tests/support/with-engine.sh cargo test --locked

bench: ## the Agent measured against the bare Engine API
	@tests/support/with-engine.sh tests/support/bench.sh

clean: ## everything that was built or started here
	@tests/support/engine.sh down
	cargo clean
