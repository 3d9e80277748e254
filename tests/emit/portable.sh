#!/bin/sh
# make test-emit: emitted C in every dialect and under every checker that is here: gcc and clang, C11 and C++, 32 bits,
# sanitizers, valgrind; each prints what the plain build prints.
set -eu
. tests/emit/lib.sh
TOP=build/emit
WARN="-Wall -Wextra -Wpedantic -Werror -I."
for model in mlp_cls_reg/model.op17.onnx cnn_nyu/model.op17.onnx transformer_glue/model.op17.onnx; do
    dir=$TOP/$(dirname $model)
    rm -rf "$dir"
    emit $model "$dir"
    steps="$(arguments "$dir") --steps 3 --set lr=0.01"
    files=$(sources "$dir/c")
    cd "$dir/c"
    check() { # NAME COMPILER-COMMAND [RUNNER]
        $2 -o ../program $files -lm
        $3 ../program $steps >../printed
        cmp -s ../plain ../printed || { echo "$model: $1 prints something else"; exit 1; }
        echo "$model: $1: the same"
    }
    gcc -std=c11 $WARN -ffp-contract=off -O2 -o ../program $files -lm
    ../program $steps >../plain
    check "clang" "clang -std=c11 $WARN -ffp-contract=off -O2" ""
    check "gcc -O3" "gcc -std=c11 $WARN -ffp-contract=off -O3" ""
    check "threads" "gcc -std=c11 $WARN -ffp-contract=off -O2 -DMODEL_THREADS=3 -pthread" ""
    check "sanitizers" \
        "gcc -std=c11 $WARN -ffp-contract=off -O1 -g -fsanitize=address,undefined -fno-sanitize-recover" ""
    for f in $files; do
        g++ -x c++ -std=c++11 $WARN -O1 -ffp-contract=off -c "$f" -o "$f.o"
        clang++ -x c++ -std=c++17 $WARN -fsyntax-only "$f"
    done
    g++ -o ../program $(for f in $files; do echo "$f.o"; done) -lm
    ../program $steps | cmp -s - ../plain || { echo "$model: C++ prints something else"; exit 1; }
    echo "$model: C++: the same"
    if echo '#include <math.h>' | gcc -m32 -x c -fsyntax-only - 2>/dev/null; then
        for f in $files; do
            gcc -m32 -std=c11 $WARN -O1 -c "$f" -o "$f.o"
        done
        echo "$model: 32 bits: compiles"
    else
        echo "$model: 32 bits: the headers are not here (Debian: libc6-dev-i386)"
    fi
    if command -v valgrind >/dev/null; then
        gcc -std=c11 $WARN -ffp-contract=off -O1 -g -o ../program $files -lm
        ../program $steps --cpu 1 >../plain # valgrind knows no AVX-512
        valgrind -q --error-exitcode=9 ../program $steps --cpu 1 >../printed
        cmp -s ../plain ../printed || { echo "$model: valgrind prints something else"; exit 1; }
        echo "$model: valgrind: clean, the same"
    else
        echo "$model: valgrind is not here"
    fi
    cd - >/dev/null
done
