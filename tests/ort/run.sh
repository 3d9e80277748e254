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
exec "$VENV/bin/python" tests/ort/compare.py "$BIN"
