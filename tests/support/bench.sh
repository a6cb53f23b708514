#!/usr/bin/env bash
# Measures the Agent as it ships, in its release build, with the bench of tests/bench.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --locked --quiet --release --no-default-features --bin longshore-agent
LONGSHORE_AGENT=$(realpath "${CARGO_TARGET_DIR:-target}/release/longshore-agent")
export LONGSHORE_AGENT
cargo bench --locked --quiet --bench agent
