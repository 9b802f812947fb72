#!/bin/sh
# Runs a fuzz target: fuzz.sh NAME [SECONDS]. Without a name, lists them.
#
# Needs no cargo-fuzz and no nightly compiler: libFuzzer only wants LLVM's coverage pass, which stable rustc can be told
# to run. There is no address sanitizer, which would need nightly.
#
# New inputs gather in corpus/NAME, failing ones in artifacts/NAME; seeds/NAME is only read.
set -eu
cd "$(dirname "$0")"

name=${1:-}
seconds=${2:-60}
if [ -z "$name" ] || [ ! -f "targets/$name.rs" ]; then
    [ -z "$name" ] || echo "fuzz.sh: no target '$name'" >&2
    echo "usage: fuzz.sh NAME [SECONDS], where NAME is one of:" >&2
    for file in targets/*.rs; do
        basename "$file" .rs >&2
    done
    exit 2
fi
case $seconds in
'' | *[!0-9]*)
    echo "fuzz.sh: SECONDS must be a whole number, not '$seconds'" >&2
    exit 2
    ;;
esac

# Naming the host as target keeps the flags away from build scripts and procedural macros.
host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS="$flags" CARGO_TARGET_DIR="$PWD/target" cargo build --release --target "$host" --bin "$name"

mkdir -p "corpus/$name" "artifacts/$name"
seeds=
[ ! -d "seeds/$name" ] || seeds="seeds/$name"
# A frame has at most 9022 bytes; an input that takes seconds or a gigabyte is a finding, too.
exec "target/$host/release/$name" "corpus/$name" $seeds -max_total_time="$seconds" -max_len=9100 -timeout=5 \
    -rss_limit_mb=1024 -artifact_prefix="artifacts/$name/" -print_final_stats=1
