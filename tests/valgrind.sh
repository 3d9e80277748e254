#!/bin/sh
# make valgrind: a model rewritten, calibrated, trained and turned back, and the test programs given as arguments, under
# valgrind: no access out of bounds, no use of what was never set, no leak.
set -eu
BIN=${BIN:-bin}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
grind() { echo "== $*"; $VALGRIND "$@" >"$folder/said" 2>&1 || { cat "$folder/said"; exit 1; }; }

grind "$BIN/mtbal-rewrite" models/digits2.onnx "$folder/step.onnx" --optimizer adam --outputs norms,gram,task-grads
grind "$BIN/mtbal-calibrate" "$folder/step.onnx" --data models/digits2.valid.npz --max-epochs 1 --window 2 --threads 1
grind "$BIN/mtbal-run" "$folder/step.onnx" --data models/digits2.valid.npz --limit 2 --threads 2 --save "$folder/trained.onnx"
grind "$BIN/mtbal-rewrite" --inference "$folder/trained.onnx" "$folder/model.onnx"
grind "$BIN/mtbal-run" "$folder/model.onnx" --data models/digits2.test.npz --limit 1 --threads 1
for network in cnn_nyu/model.op13 transformer_glue/model.op17 fixtures/control_flow fixtures/external; do
    grind "$BIN/mtbal-rewrite" "tests/data/models/$network.onnx" "$folder/other.onnx"
done
export CK_FORK=no CK_DEFAULT_TIMEOUT=0
for program in "$@"; do
    grind "$program"
done
echo "valgrind: nothing found"
