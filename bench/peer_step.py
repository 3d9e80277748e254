"""peer_step.py BIN FOLDER MODEL.onnx BATCH ...: a training step (Adam, calibrated weights, norms over features) of the same
step graph in ONNX Runtime and in mtbal-run, one core each, in turn; medians of 9 rounds. Inputs are made up and the learning
rate is 0, so that numbers keep their size."""
import json
import statistics
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort

ROUNDS, FREE_AXIS, SECONDS = 9, 16, 0.2


def make_feeds(path, batch):
    """One array per input without a stored value, and the learning rate."""
    graph = onnx.load(path).graph
    stored = {x.name for x in graph.initializer}
    random = np.random.default_rng(0)
    feeds = {}
    for value in graph.input:
        tensor = value.type.tensor_type
        if value.name in stored:
            continue
        free = [batch] + [FREE_AXIS] * len(tensor.shape.dim)
        dims = [d.dim_value or free[k] for k, d in enumerate(tensor.shape.dim)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        floats = np.issubdtype(dtype, np.floating)
        feeds[value.name] = random.random(dims).astype(dtype) if floats else random.integers(0, 2, dims).astype(dtype)
    return feeds


def theirs(session, feeds, runs):
    start = time.perf_counter()
    for _ in range(runs):
        session.run(None, {**feeds, "mtbal/lr": np.zeros((), np.float32)})
    return (time.perf_counter() - start) / runs


def ours(command, path, data, batch, runs):
    done = subprocess.run([command, path, "--data", data, "--batch", str(batch), "--epochs", str(runs), "--threads", "1",
                           "--set", "lr=0", "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["step_seconds"]


def compare(binaries, folder, model, batch):
    path, data = folder + "/peer.onnx", folder + "/peer.npz"
    subprocess.run([binaries + "/mtbal-rewrite", model, path, "--optimizer", "adam", "--norm-over", "features", "--quiet"],
                   check=True, stderr=subprocess.DEVNULL)
    feeds = make_feeds(path, batch)
    np.savez(data, **feeds)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    theirs(session, feeds, 3)
    runs = max(3, int(SECONDS / theirs(session, feeds, 3)))
    times = [(theirs(session, feeds, runs), ours(binaries + "/mtbal-run", path, data, batch, runs)) for _ in range(ROUNDS)]
    peer, own = (1e3 * statistics.median(t[k] for t in times) for k in (0, 1))
    print(f"  {model:<52} batch {batch:3d}: ONNX Runtime {peer:7.3f} ms, mtbal-run {own:7.3f} ms  (ours takes {own / peer:.2f} times as long)")


binaries, folder, *models = sys.argv[1:]
for i in range(0, len(models), 2):
    compare(binaries, folder, models[i], int(models[i + 1]))
