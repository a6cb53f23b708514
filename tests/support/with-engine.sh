#!/usr/bin/env bash
# with-engine.sh COMMAND...: runs COMMAND with DOCKER_HOST naming an Engine that holds the demo image.
#
# An Engine that answers already is used and left alone. A private one ends with its last user, and so do those that
# tests started for themselves and had no time to end. SIGINT and SIGTERM go to COMMAND and what it started.
set -uo pipefail
# COMMAND gets a process group of its own, so that one signal reaches cargo, the tests and their Agents.
set -m
cd "$(dirname "$0")/../.." || exit

command -v cargo >/dev/null || { echo "cargo is missing: please install Rust (https://rustup.rs)" >&2; exit 1; }
mkdir -p target/engine
# Every user holds this lock shared, and the kernel lets go of it however the user ends.
exec 8>>target/engine/users
flock -s 8

child=
leave() {
  trap '' INT TERM HUP
  [ -z "$child" ] || wait "$child" 2>/dev/null
  if flock -n -x 8; then
    for dir in target/tmp/engine-*/; do
      if [ -d "$dir" ]; then tests/support/engine.sh remove "$dir"; rm -rf "$dir"; fi
    done
    tests/support/engine.sh down 8>&-
  fi
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

DOCKER_HOST=$(tests/support/engine.sh up 8>&-) || exit 1
export DOCKER_HOST
tests/support/image.sh 8>&- || exit 1

"$@" </dev/null 8>&- &
child=$!
trap 'signalled=1; kill -TERM -- -$child 2>/dev/null' INT TERM HUP
# A trapped signal ends the wait before the command has ended.
while signalled=; wait "$child"; status=$?; [ -n "$signalled" ]; do :; done
child=
exit $status
