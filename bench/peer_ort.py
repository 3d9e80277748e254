"""One round of ONNX Runtime on the MLP of bench_mlp.c, one core: prints the milliseconds of a forward pass."""
import sys
import time

import numpy as np
import onnxruntime as ort

WARM, STEPS = 10, 100

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options)
feeds = {"x": np.random.rand(64, 784).astype(np.float32), "label": np.zeros(64, np.int64)}
for i in range(WARM + STEPS):
    if i == WARM:
        start = time.perf_counter()
    session.run(None, feeds)
print(f"{(time.perf_counter() - start) / STEPS * 1e3:.4f}")
