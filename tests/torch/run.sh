#!/bin/sh
# run.sh SCRIPT: runs a comparison with PyTorch. Installs torch and what goes with it into .venv-torch (pip's PIP_INDEX_URL is
# heeded: an index of CPU builds saves two gigabytes); says so when it cannot.
set -eu
VENV=.venv-torch
SCRIPT=$1
shift
PACKAGES="torch numpy onnx onnxruntime onnxscript"
if ! "$VENV/bin/python" -c 'import torch, numpy, onnx, onnxruntime, onnxscript' 2>/dev/null; then
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        [ "$(id -u)" = 0 ] && SUDO= || SUDO=sudo
        echo "installing python3-venv"
        $SUDO apt-get update -qq && $SUDO apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
    fi
    python3 -m venv "$VENV"
    echo "installing $PACKAGES into $VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check $PACKAGES 2>/dev/null || {
        echo "torch cannot be installed here (is the package index reachable?); nothing was compared"
        exit 1
    }
fi
exec "$VENV/bin/python" "tests/torch/$SCRIPT" "${BIN:-bin}" "$@"
