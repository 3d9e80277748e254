#!/bin/sh
# command.sh: what balancing costs mtbal-run as a whole: trainings on the shipped data with plain equal weights, and with
# calibrated weights and norms over the features at every step, in turn, one core; the ratio of the medians.
set -eu
BIN=${BIN:-bin}
TOP=build/bench
ROUNDS=${ROUNDS:-21} # short runs, many of them: the machine may slow down for seconds
STEPS=960
LIMIT=1.05
status=0

train() { # KIND MODEL: appends the milliseconds of a training
    start=$(date +%s%N)
    "$BIN/mtbal-run" $TOP/"$1".onnx --data models/"$2".train.npz --batch 64 --limit "$STEPS" --threads 1 --quiet
    end=$(date +%s%N)
    echo $(((end - start) / 1000)) >>$TOP/"$1".times
}

median() {
    sort -g "$1" | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'
}

for model in digits2 toyscale multidigits interpnoise digits5; do
    "$BIN/mtbal-rewrite" models/$model.onnx $TOP/equal.onnx --optimizer adam --balance equal --outputs none --quiet
    "$BIN/mtbal-rewrite" models/$model.onnx $TOP/calibrated.onnx --optimizer adam --norm-over features --quiet
    rm -f $TOP/equal.times $TOP/calibrated.times
    round=0
    while [ $round -lt "$ROUNDS" ]; do
        train equal $model
        train calibrated $model
        round=$((round + 1))
    done
    awk -v n=$model -v e="$(median $TOP/equal.times)" -v c="$(median $TOP/calibrated.times)" -v l=$LIMIT -v s=$STEPS 'BEGIN {
        missed = c > l * e
        printf "  %-12s %d steps: equal weights %7.1f ms, calibrated with norms over features x %.3f  (limit %g)%s\n",
            n, s, e / 1e3, c / e, l, missed ? "  MISSED" : ""
        exit missed }' || status=1
done
exit $status
