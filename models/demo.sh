#!/bin/sh
# make demo: the whole line on real input: which digit is it (cross-entropy), and the picture without its noise (sum of
# squares in raw units), on one trunk. DRY=1 prints the commands only.
set -eu
BIN=${BIN:-bin}
OUT=build/demo
DIGITS=models/digits2
HOW="--batch 64 --set lr=0.003 --cosine --warmup 50"
UNITS="--metric accuracy:pred_digit,label --metric nrmse:pred_clean,picture"
mkdir -p "$OUT"
say() {
    printf '\n$ %s\n' "$*"
    [ -n "${DRY:-}" ] || "$@"
}
tell() { printf '\n%s\n' "$*"; }

tell "Two tasks on one trunk: which digit (cross-entropy), and the picture without its noise (squares in raw units)."
say $BIN/mtbal-rewrite $DIGITS.onnx $OUT/step.onnx --optimizer adam
say $BIN/mtbal-calibrate $OUT/step.onnx --data $DIGITS.train.npz --valid $DIGITS.valid.npz $HOW --max-epochs 125 \
    --compare --metric loss_digit=accuracy:pred_digit,label --metric loss_clean=nrmse:pred_clean,picture \
    --report $OUT/calibration.html -o $OUT/calibrated.onnx
tell "Together, with equal weights and with calibrated ones:"
say $BIN/mtbal-run $OUT/step.onnx --data $DIGITS.train.npz $HOW --epochs 125 --shuffle --save $OUT/equal.onnx
say $BIN/mtbal-run $OUT/calibrated.onnx --data $DIGITS.train.npz $HOW --epochs 125 --shuffle \
    --log $OUT/log.jsonl --report $OUT/run.html --save $OUT/trained.onnx
say $BIN/mtbal-rewrite --inference $OUT/equal.onnx $OUT/equal.model.onnx -q
say $BIN/mtbal-rewrite --inference $OUT/trained.onnx $OUT/model.onnx
tell "On test data that neither has seen, equal weights:"
say $BIN/mtbal-run $OUT/equal.model.onnx --data $DIGITS.test.npz --batch 497 $UNITS
tell "and calibrated weights:"
say $BIN/mtbal-run $OUT/model.onnx --data $DIGITS.test.npz --batch 497 $UNITS
tell "Pages to look at: $OUT/calibration.html, $OUT/run.html"
