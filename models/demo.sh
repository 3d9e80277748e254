#!/bin/sh
# make demo: the whole line on real input: which digit is it (cross-entropy), and the picture without its noise (sum of
# squares in raw units), on one trunk.
set -eu
BIN=${BIN:-bin}
OUT=build/demo
mkdir -p "$OUT"
say() { printf '\n$ %s\n' "$*"; "$@"; }

echo "Two tasks on one trunk: which digit (cross-entropy), and the picture without its noise (squares in raw units)."
say $BIN/mtbal-rewrite models/digits2.onnx $OUT/step.onnx --optimizer adam
say $BIN/mtbal-calibrate $OUT/step.onnx --data models/digits2.train.npz --valid models/digits2.valid.npz \
    --set lr=0.003 -o $OUT/calibrated.onnx
say $BIN/mtbal-run $OUT/step.onnx --data models/digits2.train.npz --epochs 20 --shuffle --set lr=0.003 \
    --save $OUT/equal.onnx
say $BIN/mtbal-run $OUT/calibrated.onnx --data models/digits2.train.npz --epochs 20 --shuffle --set lr=0.003 \
    --log $OUT/log.jsonl --save $OUT/trained.onnx
say $BIN/mtbal-rewrite --inference $OUT/equal.onnx $OUT/equal.model.onnx -q
say $BIN/mtbal-rewrite --inference $OUT/trained.onnx $OUT/model.onnx
echo
echo "On test data that neither has seen, trained with equal weights:"
say $BIN/mtbal-run $OUT/equal.model.onnx --data models/digits2.test.npz --batch 497
echo
echo "and with calibrated weights:"
say $BIN/mtbal-run $OUT/model.onnx --data models/digits2.test.npz --batch 497
