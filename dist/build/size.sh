#!/usr/bin/env bash
# size.sh [ARCH]: fails when the Agent of `make release` is larger than its budget, and prints what weighs most, by crate.
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C

# Bytes. Raising it is a decision; what it is spent on is printed below it.
budget=4700000

arch=${1:-$(uname -m)}
target_dir=${CARGO_TARGET_DIR:-target}
shipped=$target_dir/dist/$arch/longshore-agent
whole=$(find "$target_dir/$arch"-unknown-linux-musl*/release/longshore-agent | head -1)
size=$(stat -c %s "$shipped")
echo "$shipped: $size of $budget bytes"
{
  # Symbols by the crate that they belong to: for `<Type as Trait>` and drops of the standard library's, the first other.
  nm -t d -S -C --defined-only "$whole" | awk '$3 ~ /[tTrRdDvVwW]/ {
    size = $2 + 0
    name = $0; sub(/^[0-9]+ [0-9]+ . /, "", name)
    crate = ""; rest = name
    while (match(rest, /[a-z_][a-z0-9_]*::/)) {
      word = substr(rest, RSTART, RLENGTH - 2); rest = substr(rest, RSTART + RLENGTH)
      if (crate == "") crate = word
      if (word !~ /^(core|alloc|std)$/) { crate = word; break }
    }
    if (crate == "") crate = (name ~ /^(ring_core|ecp_|gcm_|aes_|sha|bn_|vpaes|x25519|chacha|poly|LIMB)/) ? "ring, C and assembly" : "musl"
    if (crate ~ /^(sys|collections|ptr|slice|str|fmt|io|sync|vec|num|iter|cell|ops|panicking|thread|string|path|net|fs|option|result|hash|raw_vec|unicode|char|array|convert|time)$/) crate = "std: " crate
    sum[crate] += size
  } END { for (crate in sum) print sum[crate], crate }'
  size -A -d "$whole" | awk '$1 ~ /^\.(eh_frame|eh_frame_hdr|gcc_except_table)$/ { sum += $2 } $1 ~ /^\.rodata/ { text += $2 }
    END { print sum, "tables for unwinding"; print text, "constants, with the tables of ring and the authorities" }'
} | sort -rn | head -20 | awk '{ size = $1; $1 = ""; printf "%9d %s\n", size, $0 }'
if [ "$size" -gt "$budget" ]; then
  echo "size: the Agent is $((size - budget)) bytes over its budget" >&2
  exit 1
fi
