#!/bin/sh
# make fuzz: each reader on mutated files, and models through rewriting, lowering and a step, FUZZ_SECONDS seconds each,
# from the seeds in tests/data. What it finds lies in build/fuzz/found; what it has learnt, in build/fuzz/corpus, where the next run goes on.
set -eu
TOP=build/fuzz
SECONDS_EACH=${FUZZ_SECONDS:-30}
mkdir -p $TOP/found

seeds() { # TARGET: the files to begin with; big ones teach little and slow it down
    case $1 in
    model | step | structure) find tests/data models -name '*.onnx' -size -20k ;;
    npz) find tests/data -name '*.np[yz]' -size -20k ;;
    text) find tests/data/fuzz/text -type f ;;
    checkpoint) find tests/data/ort -name '*.checkpoint' ;;
    esac
    find tests/data/fuzz/$1 -type f 2>/dev/null || true
}

status=0
for target in ${*:-model npz text checkpoint step structure}; do
    mkdir -p $TOP/corpus/$target $TOP/seeds/$target
    seeds $target | while read -r file; do
        cp "$file" "$TOP/seeds/$target/$(echo "$file" | tr / _)"
    done
    echo "== $target, $SECONDS_EACH s from $(find $TOP/seeds/$target -type f | wc -l) files"
    "$TOP/tests/fuzz/$target" -max_total_time="$SECONDS_EACH" -timeout=10 -rss_limit_mb=1024 -max_len=20000 \
        -artifact_prefix="$TOP/found/$target-" -print_final_stats=1 $TOP/corpus/$target $TOP/seeds/$target \
        >$TOP/$target.log 2>&1 || { tail -40 $TOP/$target.log; status=1; }
    grep -E 'number_of_executed_units|DONE|cov:' $TOP/$target.log | tail -2
done
[ $status = 0 ] && echo "fuzz: nothing found"
exit $status
