#!/usr/bin/env bash
# package.sh [ARCH]: what is handed out, under target/dist: longshore-VERSION-ARCH.tar.gz with the binaries, everything of
# dist/ and the licences of what is linked in; a CycloneDX list of that beside it; SHA256SUMS over all that is there.
# Order, owner and time of what is packed are fixed, so the same binaries give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C TZ=UTC
umask 022

arch=${1:-$(uname -m)}
dist=$(realpath -m "${CARGO_TARGET_DIR:-target}")/dist
target=$(rustc --print target-list | grep -xE "$arch-unknown-linux-musl(eabi|eabihf)?" | tail -1)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
tag=$(git describe --tags --match 'v[0-9]*' 2>/dev/null || true)
version=${LONGSHORE_VERSION:-${tag#v}}
[ -n "$version" ] || version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=longshore-$version-$arch

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
tree=$staging/$name
mkdir "$tree"
install -m 755 "$dist/$arch/longshore-agent" "$dist/$arch/longshore-panel" "$tree"
for path in dist/*; do [ "$path" = dist/build ] || cp -R "$path" "$tree"; done
cp LICENSE README.md "$tree"
cargo metadata --locked --format-version 1 --filter-platform "$target" >"$staging/metadata"
cargo run --locked --quiet --example bill -- sbom "$version" "$epoch" <"$staging/metadata" >"$dist/$name.cdx.json"
cargo run --locked --quiet --example bill -- licences "$version" "$epoch" <"$staging/metadata" >"$tree/LICENCES"
tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r-w --mtime="@$epoch" --format=ustar -C "$staging" -c "$name" |
  gzip -9n >"$dist/$name.tar.gz"
cd "$dist"
sha256sum -- *.tar.gz *.cdx.json >SHA256SUMS
cat SHA256SUMS
