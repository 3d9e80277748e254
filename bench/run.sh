#!/bin/sh
# make bench: speed and size, each with its limit. The MLP beside ONNX Runtime and PyTorch, round by round in one run, when
# these can be had: they are installed into .venv and .venv-torch (or named: ORT_PYTHON=, TORCH_PYTHON=, an interpreter).
set -eu
. tests/install.sh
BENCH=${BENCH:-build}/bench
TOP=build/bench
ROUNDS=${ROUNDS:-9}
status=0
mkdir -p $TOP

torch_python() { # an interpreter with torch, or nothing
    python=${TORCH_PYTHON:-.venv-torch/bin/python}
    "$python" -c 'import torch' 2>/dev/null || {
        [ -z "${TORCH_PYTHON:-}" ] || return 0
        echo "installing torch and numpy into .venv-torch" >&2
        python3 -m venv .venv-torch &&
            "$python" -m pip install --quiet --disable-pip-version-check torch numpy >/dev/null 2>&1 || return 0
    }
    "$python" -c 'import torch' 2>/dev/null && echo "$python" || true
}

ort_python() {
    [ -n "${ORT_PYTHON:-}" ] || { need_python >&2 && ORT_PYTHON=$VENV/bin/python; } || return 0
    "$ORT_PYTHON" -c 'import onnxruntime, numpy' 2>/dev/null && echo "$ORT_PYTHON" || true
}

median() { # FILE COLUMN
    awk -v c="$2" '{ print $c }' "$1" | sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'
}

show() { # NAME MILLISECONDS LIMIT; LIMIT -: a peer, with OURS beside it
    if [ "$3" = - ]; then
        awk -v n="$1" -v t="$2" -v o="$4" 'BEGIN { printf "  %-58s %8.3f ms  (ours takes %.2f times as long)\n", n, t, o / t }'
    else
        awk -v n="$1" -v t="$2" -v l="$3" 'BEGIN { late = t > l
            printf "  %-58s %8.3f ms  (limit %g)%s\n", n, t, l, late ? "  MISSED" : ""; exit late }' || status=1
    fi
}

# ------------------------------------------------------------------ the network

ort=$(ort_python) torch=$(torch_python)
[ "$ort" ] || echo "ONNX Runtime cannot be had here (is the package index reachable?): nothing to compare the forward pass with"
[ "$torch" ] || echo "PyTorch cannot be had here (is the package index reachable?): nothing to compare the SGD step with"
rm -f $TOP/*.rounds
round=0
while [ $round -lt "$ROUNDS" ]; do
    "$BENCH/bench_mlp" $TOP >>$TOP/ours.rounds
    [ -z "$ort" ] || "$ort" bench/peer_ort.py $TOP/mlp.onnx >>$TOP/ort.rounds
    [ -z "$torch" ] || "$torch" bench/peer_torch.py >>$TOP/torch.rounds
    round=$((round + 1))
done
forward=$(median $TOP/ours.rounds 1) step=$(median $TOP/ours.rounds 2)
echo "MLP 784-512-512-10, batch 64, one core; medians of $ROUNDS rounds in turn, each the mean of 100 runs"
show "forward" "$forward" 1.5
[ -z "$ort" ] || show "  ONNX Runtime $("$ort" -c 'import onnxruntime; print(onnxruntime.__version__)')" \
    "$(median $TOP/ort.rounds 1)" - "$forward"
[ -z "$torch" ] || show "  PyTorch" "$(median $TOP/torch.rounds 1)" - "$forward"
show "forward, backward and SGD step" "$step" 4.5
[ -z "$torch" ] || show "  PyTorch $("$torch" -c 'import torch; print(torch.__version__)')" \
    "$(median $TOP/torch.rounds 2)" - "$step"
awk '{ n += $3 } END { printf "  %-58s %8d     (limit 0)%s\n", "allocations in " 100 * NR " steps", n, n ? "  MISSED" : ""
    exit n > 0 }' $TOP/ours.rounds || status=1

[ -z "$ort" ] || {
    D=tests/data/models
    echo "a training step of the same step graph, one core"
    "$ort" bench/peer_step.py "${BIN:-bin}" $TOP models/digits2.onnx 64 models/digits5.onnx 64 $D/mlp_cls_reg/model.op17.onnx 32 \
        $D/mmoe/model.op17.onnx 64 $D/rnn_tag/model.op17.onnx 8 $D/transformer_glue/model.op17.onnx 16 $D/cnn_nyu/model.op17.onnx 8
}

# ------------------------------------------------------------------ the rest

"$BENCH/bench_rewrite" "${BIN:-bin}/mtbal-rewrite" $TOP || status=1
sh bench/size.sh || status=1
echo "what balancing costs"
"$BENCH/bench_step" $TOP || status=1
echo "the same for mtbal-run as a whole"
ROUNDS= sh bench/command.sh || status=1
exit $status
