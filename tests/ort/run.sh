#!/bin/sh
# make test-ort: the same step graphs in stock ONNX Runtime. Installs onnxruntime, onnx and numpy into .venv; says so when
# it cannot.
set -eu
BIN=${BIN:-bin}
VENV=.venv
if ! "$VENV/bin/python" -c 'import onnxruntime, onnx, numpy' 2>/dev/null; then
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        [ "$(id -u)" = 0 ] && SUDO= || SUDO=sudo
        echo "installing python3-venv"
        $SUDO apt-get update -qq && $SUDO apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
    fi
    python3 -m venv "$VENV"
    echo "installing onnxruntime, onnx and numpy into $VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check onnxruntime onnx numpy 2>/dev/null || {
        echo "test-ort: onnxruntime cannot be installed here (is the package index reachable?); nothing was compared"
        exit 1
    }
fi
status=0
"$VENV/bin/python" tests/ort/compare.py "$BIN" || status=1
"$VENV/bin/python" tests/ort/training_info.py "$BIN" || status=1

# ONNX Runtime's own training sessions: the last that were published are those of 1.19.2.
WEB=.venv/web/node_modules/onnxruntime-web
[ "$(id -u)" = 0 ] && SUDO= || SUDO=sudo
command -v npm >/dev/null || { echo "installing nodejs and npm"
    $SUDO apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null || true; }
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
