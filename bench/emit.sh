#!/bin/sh
# make bench-emit: emitted C in numbers: training steps of three real models, and a forward pass beside onnx2c's
# (ONNX2C=path, or onnx2c on the PATH), both sides in one run. One core, cc -O2.
set -eu
. tests/emit/lib.sh
TOP=build/bench/emit
ONNX2C=${ONNX2C:-onnx2c}

field() { # FILE NAME: a size in model.h
    sed -n "s/^#define MODEL_$2_BYTES \([0-9]*\).*/\1/p" "$1/model.h"
}

bound() {
    sed -n 's/.*an arena below \([0-9]*\) bytes.*/\1/p' "$1/model.h"
}

# Milliseconds of a command, one of 100 runs, process start and end included.
milliseconds() {
    start=$(date +%s%N)
    for i in 1 2 3 4 5 6 7 8 9 10; do
        for j in 1 2 3 4 5 6 7 8 9 10; do "$@" >/dev/null; done
    done
    end=$(date +%s%N)
    awk "BEGIN { printf \"%.2f\", ($end - $start) / 1e8 }"
}

echo "Training steps. Binary: stripped, without the weights (weights.bin beside it). Bound: the largest set of"
echo "values that live at once. First step: from process start to its end, one step done, .npy files read."
printf '\n%-34s %6s %8s %6s %8s %9s %9s %6s %8s %10s\n' "model" "lines" "bytes" "calls" "binary" "arena" "bound" "ratio" \
    "scratch" "first step"
for model in mlp_cls_reg/model.op17.onnx cnn_nyu/model.op17.onnx transformer_glue/model.op13.onnx \
    transformer_glue/model.op17.onnx; do
    for optimizer in sgd adam; do
        dir=$TOP/$(dirname $model).$(basename $model .onnx).$optimizer
        rm -rf "$dir"
        emit $model "$dir" --emit-weights file --optimizer $optimizer
        make -s -j2 -C "$dir/c" CFLAGS="-O2 -Werror"
        strip "$dir/c/model"
        args=$(arguments "$dir")
        files=$(cd "$dir/c" && find . -name '*.[ch]' -o -name '*.def')
        first=$(cd "$dir/c" && milliseconds ./model $args --steps 1)
        (cd "$dir/c" && cat $files) >"$dir/all"
        printf '%-34s %6d %8d %6d %8d %9d %9d %6.3f %8d %7s ms\n' "$(dirname $model) $(basename $model .onnx) $optimizer" \
            "$(wc -l <"$dir/all")" "$(wc -c <"$dir/all")" "$(grep -c ' run(m, ' "$dir/c/model.c")" \
            "$(wc -c <"$dir/c/model")" "$(field "$dir/c" ARENA)" "$(bound "$dir/c")" \
            "$(awk "BEGIN { print $(field "$dir/c" ARENA) / $(bound "$dir/c") }")" "$(field "$dir/c" SCRATCH)" "$first"
    done
done

# ------------------------------------------------------------------ forward, beside onnx2c

median() { # of nine runs of a program that prints microseconds
    for i in 1 2 3 4 5 6 7 8 9; do "$1"; done | sort -g | sed -n 5p
}

# Bytes of an object that start as zeros: its tensors.
memory() {
    size "$1" | awk 'NR == 2 { print $3 }'
}

clock='#include <stdio.h>
#include <time.h>
static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}'

# A folder's forward pass: times it, prints a line. Its main.c is replaced.
ours() { # NAME FOLDER
    cat >"$2/main.c" <<C
#include "model.h"
$clock
static model m;
static struct {
    MODEL_ALIGN unsigned char bytes[MODEL_WEIGHT_BYTES];
} weights;
int main(void)
{
    FILE *f = fopen("$2/weights.bin", "rb");
    if (!f || fread(weights.bytes, 1, sizeof weights.bytes, f) != sizeof weights.bytes)
        return 1;
    model_init(&m, weights.bytes);
    model_step(&m, 0);
    double start = now();
    for (int i = 0; i < RUNS; i++)
        model_step(&m, 0);
    printf("%.3f\n", (now() - start) / RUNS);
    return 0;
}
C
    make -s -j2 -C "$2" CFLAGS="-O2 -Werror -DRUNS=$3"
    strip "$2/model"
    echo "  $1, mtbal: $(median "$2/model") us a run; program $(wc -c <"$2/model") bytes without" \
        "$(wc -c <"$2/weights.bin") of weights; arena $(field "$2" ARENA) (bound $(bound "$2")), scratch $(field "$2" SCRATCH)"
}

theirs() { # NAME FILE RUNS
    if ! sh -c '"$0" -d batch:8 -d seq:16 "$1" >"$2.c"; exit $?' "$ONNX2C" "$2" "$dir/$1" 2>"$dir/$1.err"; then
        echo "  $1, onnx2c: cannot translate it: $(grep -a Fatal "$dir/$1.err" | sed 's/.*) //' | grep . || echo "it crashed")"
        return
    fi
    # entry(const float x[8][16], float logits[8][5]): a static array for each
    arguments=$(sed -n 's/^void entry(\(.*\)) *{*$/\1/p' "$dir/$1.c")
    cat >"$dir/$1.main.c" <<C
$clock
void entry($arguments);
$(echo "$arguments" | tr ',' '\n' | sed 's/^ *\(const \)*/static /; s/$/;/')
int main(void)
{
#define CALL entry($(echo "$arguments" | tr ',' '\n' | sed 's/\[.*//; s/.* //' | paste -sd,))
    CALL;
    double start = now();
    for (int i = 0; i < $3; i++)
        CALL;
    printf("%.3f\n", (now() - start) / $3);
    return 0;
}
C
    cc -O2 -w -c "$dir/$1.c" -o "$dir/$1.o"
    cc -O2 -o "$dir/$1" "$dir/$1.main.c" "$dir/$1.o" -lm
    strip "$dir/$1"
    weights=$(wc -c <"$dir/$1.mtbal/weights.bin")
    echo "  $1, onnx2c: $(median "$dir/$1") us a run; program $(($(wc -c <"$dir/$1") - weights)) bytes without" \
        "$weights of weights; arena $(memory "$dir/$1.o")"
}

echo
echo "Forward passes, batch 8: the heads of the MLP; the CNN with its losses, and its trunk and first head with"
echo "BatchNormalization folded; the transformer with its losses."
dir=$TOP/forward
rm -rf "$dir"
mkdir -p "$dir"
while read -r name file runs outputs; do
    inputs $file "$dir/$name.inputs"
    [ -z "$outputs" ] || (cd "$dir/$name.inputs" && ls | grep -vE "^(image|x).npy" | xargs rm -f)
    "$BIN/mtbal-rewrite" --inference "$DATA/$file" "$dir/$name.onnx" -q --emit-c "$dir/$name.mtbal" \
        --emit-weights file ${outputs:+--outputs $outputs} $(shapes "$dir/$name.inputs")
    ours $name "$dir/$name.mtbal" $runs
    if command -v "$ONNX2C" >/dev/null; then
        theirs $name "$dir/$name.onnx" $runs
    fi
done <<MODELS
mlp mlp_cls_reg/heads.onnx 20000 logits,pred
cnn cnn_nyu/model.op13.onnx 200
cnn_trunk cnn_nyu/eval_bn.onnx 200 /seg1/Conv_output_0
transformer transformer_glue/model.op13.onnx 200
MODELS
command -v "$ONNX2C" >/dev/null ||
    echo "  onnx2c is not here to compare with: build it and set ONNX2C to its path"
