#!/usr/bin/env bash
# Links the Agent static, which the one beside the tests is not, and prints its path: for tests of what only a static one
# can do. It is an example to cargo, so that the dynamic one stays where it is and nothing but the link is done again.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=target/static
mkdir -p $root
exec 9>$root/lock
flock 9
# Called from a test, cargo's own variables would make build scripts run again and everything be built twice.
unset "${!CARGO_PKG_@}" "${!CARGO_BIN_@}" CARGO_MANIFEST_DIR CARGO_MANIFEST_PATH CARGO_CRATE_NAME
built="${CARGO_TARGET_DIR:-target}/debug/examples/static-agent"
cargo rustc --locked --quiet --no-default-features --example static-agent -- -C target-feature=+crt-static 9>&- >&2
cmp -s "$built" $root/longshore-agent || { cp "$built" $root/new && mv $root/new $root/longshore-agent; }
echo "$PWD/$root/longshore-agent"
