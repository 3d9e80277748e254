#!/bin/sh
# make test-ort: the same step graphs in stock ONNX Runtime, and artifacts in its training sessions. Installs all that it
# compares with into .venv; says so when it cannot.
set -eu
BIN=${BIN:-bin}
. tests/install.sh
need_python || {
    echo "test-ort: onnxruntime cannot be installed here (is the package index reachable?); nothing was compared"
    exit 1
}
status=0
"$VENV/bin/python" tests/ort/schemas.py graph/ops.def || status=1
"$VENV/bin/python" tests/ort/compare.py "$BIN" || status=1
"$VENV/bin/python" tests/ort/training_info.py "$BIN" || status=1

# ONNX Runtime's own training sessions, those that were published last of each release.
missing() { echo "test-ort: $1 cannot be installed here ($2); it was left out"; }
need_npm || true
SESSIONS=
for version in 1.17.3 1.18.0 1.19.2; do
    web=$VENV/web-$version wheel=$VENV/training-$version
    [ -d "$web/node_modules/onnxruntime-web" ] || npm install --silent --no-audit --no-fund --prefix "$web" \
        "onnxruntime-web@$version" >/dev/null 2>&1 || true
    if [ -d "$web/node_modules/onnxruntime-web" ]; then
        SESSIONS="$SESSIONS $version=node:$web/node_modules/onnxruntime-web"
    else
        missing "onnxruntime-web@$version" "is the npm registry reachable?"
    fi
    # numpy and the compiled module are all that is needed of it: its Python package wants torch
    "$wheel/bin/python" -c 'from onnxruntime.capi._pybind_state import Module' 2>/dev/null || { python3 -m venv "$wheel" &&
        "$wheel/bin/python" -m pip install --quiet --disable-pip-version-check 'numpy<2' \
            "onnxruntime-training-cpu==$version" >/dev/null 2>&1; } || true
    if "$wheel/bin/python" -c 'from onnxruntime.capi._pybind_state import Module' 2>/dev/null; then
        SESSIONS="$SESSIONS $version=wheel:$wheel/bin/python"
    else
        missing "onnxruntime-training-cpu $version" "PyPI has it for Python 3.8 to 3.11 or 3.12"
    fi
done
# shellcheck disable=SC2086
"$VENV/bin/python" tests/ort/training.py "$BIN" $SESSIONS || status=1
exit $status
