#!/usr/bin/env bash
# release.sh [ARCH]: both binaries as they ship, static and stripped, under target/dist/ARCH (the host's when not given).
#
# The same sources, toolchain and crates give the same bytes, whoever builds, where and when: paths are mapped to fixed
# ones, and what git knows comes in as LONGSHORE_VERSION, LONGSHORE_BUILD and SOURCE_DATE_EPOCH, which a tree without git
# may set itself. What is not stripped stays under target/TARGET/release, for size.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C TZ=UTC
umask 022

fail() { echo "release: $*" >&2; exit 1; }

arch=${1:-$(uname -m)}
target=$(rustc --print target-list | grep -xE "$arch-unknown-linux-musl(eabi|eabihf)?" | tail -1) ||
  fail "Rust knows no musl target for $arch"
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
sysroot=$(rustc --print sysroot)
[ -d "$sysroot/lib/rustlib/$target" ] || rustup target add "$target" ||
  fail "Rust for $target is missing, and rustup cannot install it"

# ring has some C and assembly. For another architecture Debian's cross compiler makes them, with headers of its own.
if [ "$arch" = "$(uname -m)" ]; then cc=$(command -v musl-gcc || command -v cc || fail "a C compiler is missing: install gcc")
else
  cc=$arch-linux-gnu-gcc
  name=${arch//_/-}
  case $arch in aarch64) deb=arm64 ;; *) deb=$arch ;; esac
  tests/support/engine.sh need "$cc:gcc-$name-linux-gnu" "/usr/$arch-linux-gnu/include/stdint.h:libc6-dev-$deb-cross"
fi

from_git() { git "$@" 2>/dev/null || true; }
package=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
tag=$(from_git describe --tags --match 'v[0-9]*' --dirty)
export LONGSHORE_VERSION=${LONGSHORE_VERSION:-${tag:+${tag#v}}}
[ -n "$LONGSHORE_VERSION" ] || LONGSHORE_VERSION=$package
epoch=$(from_git log -1 --format=%ct)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-${epoch:-0}}
commit=$(from_git rev-parse --short=12 HEAD)
[ -z "$commit" ] || [ -z "$(from_git status --porcelain --untracked-files=no)" ] || commit+=-changed
export LONGSHORE_BUILD=${LONGSHORE_BUILD-${commit:+$commit $(date -u -d "@$SOURCE_DATE_EPOCH" +%F)}}

# The crates have to be there before their directories can be named.
cargo fetch --locked --quiet --target "$target"
cargo_home=${CARGO_HOME:-$HOME/.cargo}
hash=$(rustc -vV | sed -n 's/^commit-hash: //p')
# lld comes with the toolchain, so no linker of the host decides a byte. It folds functions that came out the same.
flags=(-Clinker=rust-lld -Clink-arg=--icf=all -Crelocation-model=static -Ctarget-feature=+crt-static
  "--remap-path-prefix=$PWD=/longshore" "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$hash")
for crates in "$cargo_home"/registry/src/*/; do flags+=("--remap-path-prefix=${crates%/}=/crates"); done
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
underscored=${target//-/_}
export "CC_$underscored=$cc" "CFLAGS_$underscored=-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$target_dir=/target"

out=$target_dir/dist/$arch
host_bin=$sysroot/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
mkdir -p "$out"
# The Agent leaves the Panel's code out.
for program in ${PROGRAMS:-agent panel}; do
  features=$([ "$program" = panel ] && echo --features=panel || echo --no-default-features)
  cargo build --locked --release --target "$target" "$features" --bin "longshore-$program"
  built=$target_dir/$target/release/longshore-$program
  LD_LIBRARY_PATH=$sysroot/lib "$host_bin/rust-objcopy" --strip-all "$built" "$out/longshore-$program.new"
  if readelf -lW "$out/longshore-$program.new" | grep -qE 'INTERP|DYNAMIC'; then fail "longshore-$program is not static"; fi
  mv "$out/longshore-$program.new" "$out/longshore-$program"
  printf '%9d  %s\n' "$(stat -c %s "$out/longshore-$program")" "$out/longshore-$program"
done
