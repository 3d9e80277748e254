#!/bin/sh
# make test-opinfo: gradients of single operators against PyTorch's own samples of them. Installs torch, onnx and ONNX
# Runtime into .venv-opinfo (pip's PIP_INDEX_URL is heeded); says so when it cannot. ARGS go to opinfo.py.
set -eu
VENV=.venv-opinfo
if ! "$VENV/bin/python" -c 'import torch, onnx, onnxruntime, onnxscript, expecttest' 2>/dev/null; then
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        [ "$(id -u)" = 0 ] && SUDO= || SUDO=sudo
        $SUDO apt-get update -qq && $SUDO apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
    fi
    python3 -m venv "$VENV"
    echo "installing torch, onnx, onnxruntime and what they need into $VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check torch onnx onnxruntime onnxscript numpy expecttest 2>/dev/null || {
        echo "test-opinfo: torch cannot be installed here (is the package index reachable?); nothing was compared"
        exit 1
    }
fi
exec "$VENV/bin/python" tests/torch/opinfo.py "${BIN:-bin}" "$@"
