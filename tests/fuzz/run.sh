#!/usr/bin/env bash
# run.sh SECONDS [TARGET...]: fuzzes each target in turn for so long, all of them when none is named. Starts from what is
# kept under corpus/, collects what is new under target/fuzz, and stops at the first finding, whose input it names.
#
# run.sh keep [TARGET...]: puts what covers most of it back under corpus/, beside the seeds written by hand there.
set -euo pipefail
cd "$(dirname "$0")/../.."
tests/support/engine.sh need g++:g++
# The targets need flags of the compiler that only nightly takes by itself.
export RUSTC_BOOTSTRAP=1 PATH="$PWD/target/fuzz-tools/bin:$PATH"
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --root target/fuzz-tools cargo-fuzz@0.13.2
# The crates of the main build, at its versions.
cp Cargo.lock tests/fuzz/Cargo.lock

most_files=100
most_bytes=200000

fuzz() { # SUBCOMMAND TARGET [ARGUMENT...]
    # Safe Rust needs no address sanitizer, and without one inputs run several times as fast.
    cargo fuzz "$1" --fuzz-dir tests/fuzz --target-dir target/fuzz/build --sanitizer none "${@:2}"
}

work=$1
shift
[ $# -gt 0 ] || set -- $(cd tests/fuzz/corpus && ls)
for target in "$@"; do
    kept=tests/fuzz/corpus/$target
    found=target/fuzz/corpus/$target
    mkdir -p "$kept" "$found" "target/fuzz/artifacts/$target"
    if [ "$work" = keep ]; then
        # Of the smallest set that reaches every edge, the largest first: they reach most.
        minimal=$(mktemp -d target/fuzz/minimal.XXXXXX)
        fuzz run "$target" "$minimal" "$found" "$kept" -- -set_cover_merge=1 -use_counters=0 -max_len=4096
        find "$kept" -type f ! -name 'seed-*' -delete
        files=$(find "$kept" -type f | wc -l) bytes=0
        while read -r size name && [ $((files += 1)) -le $most_files ] && [ $((bytes += size)) -le $most_bytes ]; do
            cp "$minimal/$name" "$kept/$name"
        done < <(find "$minimal" -type f -printf '%s %f\n' | sort -rn)
        rm -rf "$minimal"
    else
        echo "fuzzing $target for $work s"
        words=()
        case $target in unified | legacy | http | limits) words=(-dict=tests/fuzz/json.dict) ;; esac
        fuzz run "$target" "$found" "$kept" -- -max_total_time="$work" -timeout=10 -rss_limit_mb=2048 \
            -max_len=40000 "${words[@]}" -print_final_stats=1 -artifact_prefix="target/fuzz/artifacts/$target/"
    fi
done
