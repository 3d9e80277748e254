#!/bin/sh
# make web: a folder that any static server can serve: the page, the demo model as a calibrated step graph with its states
# beside it, data, and onnxruntime-web.
set -eu
BIN=${BIN:-bin}
OUT=${1:-build/web}
ORT=examples/node_modules/onnxruntime-web/dist
. tests/install.sh
need_packages || { echo "make web: onnxruntime-web cannot be installed here (is the npm registry reachable?)"; exit 1; }
mkdir -p "$OUT/ort"
cp examples/web/*.html examples/web/*.css examples/web/*.mjs "$OUT"
for f in ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm \
    ort.webgpu.min.mjs ort-wasm-simd-threaded.asyncify.mjs ort-wasm-simd-threaded.asyncify.wasm; do
    cp "$ORT/$f" "$OUT/ort"
done
cp models/digits2.train.npz "$OUT/train.npz"
cp models/digits2.test.npz "$OUT/test.npz"
"$BIN/mtbal-rewrite" models/digits2.onnx "$OUT/step.onnx" --optimizer adam --set lr=0.003 -q
"$BIN/mtbal-calibrate" "$OUT/step.onnx" --data models/digits2.train.npz --valid models/digits2.valid.npz -q
"$BIN/mtbal-rewrite" "$OUT/step.onnx" "$OUT/step.onnx" --states "$OUT/states.npz" -q
echo "$OUT is ready: node examples/web/serve.mjs $OUT"
