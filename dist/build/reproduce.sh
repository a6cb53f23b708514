#!/usr/bin/env bash
# reproduce.sh: builds both binaries twice, with everything different that should not matter, and compares their sums.
#
# The second build has another directory of another length, HOME, CARGO_HOME, umask, time zone, locale and time, and as
# root another user too. Neither has git: what git knows is given to both.
set -euo pipefail
cd "$(dirname "$0")/../.."
fail() { echo "reproduce: $*" >&2; exit 1; }

arch=$(uname -m)
work=$(mktemp -d "${TMPDIR:-/tmp}/longshore-XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
short=$work/a long=$work/a-directory-with-a-much-longer-name/and-another-one
mkdir -p "$short" "$long"
# What is there, changed or not: nothing that is ignored.
git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tee >(tar -x -C "$short") | tar -x -C "$long"
epoch=$(git log -1 --format=%ct)
build="$(git rev-parse --short=12 HEAD) $(date -u -d "@$epoch" +%F)"
known=(SOURCE_DATE_EPOCH="$epoch" LONGSHORE_BUILD="$build" LONGSHORE_VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)")
# The compiler itself, without rustup's choice of it, which looks into HOME.
toolchain=$(rustc --print sysroot)
cargo fetch --locked --quiet
cargo_home=${CARGO_HOME:-$HOME/.cargo}

build() { # DIRECTORY HOME CARGO_HOME UMASK TZ LOCALE
  (
    cd "$1"
    umask "$4"
    env -i PATH="$toolchain/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME="$2" CARGO_HOME="$3" TZ="$5" LC_ALL="$6" "${known[@]}" \
      PROGRAMS="${PROGRAMS:-agent panel}" dist/build/release.sh "$arch" >"$work/log" 2>&1
  ) || { cat "$work/log" >&2; fail "the build in $1 failed"; }
}

mkdir -p "$work/home" "$work/other-home/cargo"
cp -r "$cargo_home/registry" "$work/other-home/cargo/"
build "$short" "$work/home" "$cargo_home" 022 UTC C
if [ "$(id -u)" -eq 0 ]; then
  # The toolchain may lie where only root gets to: the other user sees it elsewhere, in a mount namespace of its own.
  mkdir "$work/toolchain"
  chown -R 65534:65534 "$long" "$work/other-home"
  touch "$work/log" && chmod 666 "$work/log"
  export -f build fail
  export work arch
  # shellcheck disable=SC2016 # expanded by the inner shell
  unshare -m bash -c 'mount --bind "$1" "$work/toolchain" && shift && exec setpriv --reuid=65534 --regid=65534 --clear-groups bash -c "
    toolchain=$work/toolchain; known=(\"\${@:2}\"); build \"\$1\" \"$work/other-home\" \"$work/other-home/cargo\" 077 Pacific/Chatham de_DE.UTF-8" \
    other "$@"' mounted "$toolchain" "$long" "${known[@]}"
else
  build "$long" "$work/other-home" "$work/other-home/cargo" 077 Pacific/Chatham de_DE.UTF-8
fi
cd "$work"
for program in ${PROGRAMS:-agent panel}; do
  first=$(sha256sum "$short/target/dist/$arch/longshore-$program" | cut -c1-64)
  second=$(sha256sum "$long/target/dist/$arch/longshore-$program" | cut -c1-64)
  echo "$first  longshore-$program"
  [ "$first" = "$second" ] || fail "longshore-$program differs: the second one is $second"
done
echo "both builds are the same"
