#!/bin/sh
# make test-ort: the same step graphs in stock ONNX Runtime. Installs onnxruntime, onnx and numpy into .venv; says so when
# it cannot.
set -eu
BIN=${BIN:-bin}
. tests/install.sh
need_python || {
    echo "test-ort: onnxruntime cannot be installed here (is the package index reachable?); nothing was compared"
    exit 1
}
status=0
"$VENV/bin/python" tests/ort/compare.py "$BIN" || status=1

# ONNX Runtime's own training sessions: the last that were published are those of 1.19.2.
WEB=.venv/web/node_modules/onnxruntime-web
need_npm || true
[ -d "$WEB" ] || { mkdir -p .venv/web && npm install --silent --no-audit --no-fund --prefix .venv/web \
    onnxruntime-web@1.19.2 >/dev/null 2>&1; } || { echo "test-ort: onnxruntime-web@1.19.2 cannot be installed here"; WEB=-; }
WHEEL=.venv/training/bin/python
"$WHEEL" -c 'from onnxruntime.capi import _pybind_state as m; m.Module' 2>/dev/null || {
    python3 -m venv .venv/training &&
    .venv/training/bin/python -m pip install --quiet --disable-pip-version-check 'numpy<2' \
        onnxruntime-training-cpu==1.19.2 2>/dev/null; } || {
    echo "test-ort: PyPI has no onnxruntime-training-cpu 1.19.2 for this Python (or cannot be reached)"; WHEEL=-; }
"$VENV/bin/python" tests/ort/training.py "$BIN" "$WEB" "$WHEEL" || status=1
exit $status
