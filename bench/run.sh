#!/bin/sh
# make bench: what is measured, both sides in one run where the other side can be had (onnxruntime in .venv: make test-ort
# installs it).
set -eu
mkdir -p build/bench
"${BENCH:-build}/bench/bench_mlp" build/bench
"${BENCH:-build}/bench/bench_step" build/bench
if .venv/bin/python -c 'import onnxruntime, numpy' 2>/dev/null; then
    .venv/bin/python - <<'P'
import time
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession("build/bench/mlp.onnx", options)
feeds = {"x": np.random.rand(64, 784).astype(np.float32), "label": np.zeros(64, np.int64)}
times = []
for _ in range(9):
    start = time.perf_counter()
    for _ in range(200):
        session.run(None, feeds)
    times.append((time.perf_counter() - start) / 200 * 1e3)
print(f"ONNX Runtime {ort.__version__} on the same file, one core: forward {sorted(times)[4]:.3f} ms")
P
else
    echo "ONNX Runtime is not there to compare with (make test-ort installs it)"
fi
echo "code and constants, without protobuf:"
size -t build/runtime/*.o build/runtime/kernels/*.o | tail -1 | awk '{printf "  %d bytes: the runtime alone\n", $1 + $2}'
size -t build/graph/*.o build/graph/ops/*.o build/passes/*.o build/passes/*/*.o build/runtime/*.o \
    build/runtime/kernels/*.o build/lower/*.o build/lower/ops/*.o | tail -1 | awk '{printf "  %d bytes: with graph, passes and lowering\n", $1 + $2}'
