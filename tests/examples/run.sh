#!/bin/sh
# make test-examples: the training loops of examples/ against mtbal-run. Installs what they run on; says so when it cannot.
set -eu
BIN=${BIN:-bin}
. tests/install.sh
need_python || {
    echo "test-examples: onnxruntime cannot be installed here (is the package index reachable?); nothing was compared"
    exit 1
}
NODE=node C=build/examples/train
need_packages || { echo "test-examples: onnxruntime-node and onnxruntime-web cannot be installed here"; NODE=-; }
need_chromium || echo "test-examples: chromium cannot be installed here"
CHROMIUM=$(command -v chromium) && [ $NODE != - ] || CHROMIUM=-
if need_header; then
    make -s -C examples/c OUT="$PWD/$C" ORT="$PWD/build/examples/ort" CFLAGS="-O2 -Wpedantic -Werror"
else
    echo "test-examples: the header of the C API cannot be had here"
    C=-
fi
[ $CHROMIUM = - ] || sh examples/web/build.sh build/web
"$VENV/bin/python" tests/examples/compare.py "$BIN" $NODE $C $CHROMIUM
