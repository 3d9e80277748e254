"""The training loops of examples/ in stock ONNX Runtime, against mtbal-run on the same step graph, data and order.

compare.py BIN NODE|- C_PROGRAM|- CHROMIUM|-
Losses, weights and norms, epoch by epoch; then the trained network that comes out of the saved states. Every optimizer in
Python, 50 steps one by one; calibrated Adam over 20 epochs everywhere.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

BIN, NODE, C, CHROMIUM = Path(sys.argv[1]), *sys.argv[2:]
MODEL, DATA = "models/digits2.onnx", "models/digits2.train.npz"
RATES = {"sgd": 0.001, "momentum": 0.0003, "adam": 0.001, "adamw": 0.001}  # below where full batches oscillate, and rounding grows
passed = failed = 0


def check(ok, label, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAILED {label}: {str(detail)[:400]}", flush=True)
    return ok


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=240)


def must(*command):
    done = run(*command)
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited {done.returncode}: {done.stderr[-400:]}")
    return done


def reference(step, epochs, batch, rate, work):
    """Means over the epochs by mtbal-run, {name: [epochs]}, and its trained network."""
    must(BIN / "mtbal-run", step, "--data", DATA, "--epochs", epochs, "--batch", batch, "--set", f"lr={rate}", "--log",
         work / "log", "--save", work / "trained.onnx", "-q")
    must(BIN / "mtbal-rewrite", "--inference", work / "trained.onnx", work / "reference.onnx", "-q")
    sums = {}
    for line in open(work / "log"):
        record = json.loads(line)
        for kind, prefix in (("loss", ""), ("weight", "mtbal/weight/"), ("grad_norm", "mtbal/grad_norm/")):
            for task, value in record[kind].items():
                sums.setdefault(prefix + task, {}).setdefault(record["epoch"], []).append(value)
    return {name: [np.mean(values) for _, values in sorted(by.items())] for name, by in sums.items()}, work / "reference.onnx"


def printed(text):
    """{name: [epochs]} of lines `epoch N  NAME VALUE  NAME VALUE ...`."""
    columns = {}
    for line in text.splitlines():
        for name, value in (pair.split() for pair in line.split("  ")[1:]):
            columns.setdefault(name, []).append(float(value))
    return columns


def relative(have, want):
    have, want = np.asarray(have, float), np.asarray(want, float)
    return np.max(np.abs(have - want) / np.maximum(np.abs(want), 1e-6)) if have.shape == want.shape else np.inf


def compare(label, have, want, falls=True):
    worst = max((relative(have.get(name, []), values), name) for name, values in want.items())
    check(worst[0] < 1e-3, label, f"{worst[1]} differs by {worst[0]:.3g}")
    for name in want:
        if falls and not name.startswith("mtbal/"):
            check(have[name][-1] < have[name][0], f"{label}: {name} falls", have[name])


def network(label, step, states, reference, work):
    done = run(BIN / "mtbal-rewrite", "--inference", step, "--states", states, work / "model.onnx", "-q")
    if not check(done.returncode == 0, f"{label}: --states", done.stderr):
        return
    have, want = ({i.name: numpy_helper.to_array(i) for i in onnx.load(str(p)).graph.initializer}
                  for p in (work / "model.onnx", reference))
    differ = [n for n in want if n not in have or np.max(np.abs(have[n] - want[n])) > 1e-3 * np.max(np.abs(want[n]))]
    check(not differ, f"{label}: the trained network", differ)


def in_python(optimizer, work):
    """Each of 50 steps: epochs of one batch."""
    step, rate = work / f"{optimizer}.onnx", RATES[optimizer]
    must(BIN / "mtbal-rewrite", MODEL, step, "--optimizer", optimizer, "--weights", "loss_digit=2,loss_clean=0.003", "-q")
    want, trained = reference(step, 50, 1000, rate, work)
    done = run(sys.executable, "examples/python/train.py", step, DATA, work / "states.npz", 50, 1000, rate)
    if check(done.returncode == 0, f"Python, {optimizer}", done.stderr):
        compare(f"Python, {optimizer}", printed(done.stdout), want)
        network(f"Python, {optimizer}", step, work / "states.npz", trained, work)


def loops(work):
    """Calibrated, 20 epochs."""
    step, split = work / "step.onnx", work / "split.onnx"
    must(BIN / "mtbal-rewrite", MODEL, step, "--optimizer", "adam", "--set", "lr=0.003", "-q")
    must(BIN / "mtbal-calibrate", step, "--data", DATA, "--valid", "models/digits2.valid.npz", "-q")
    want, trained = reference(step, 20, 32, 0.003, work)
    commands = {"Python": (step, [sys.executable, "examples/python/train.py", step])}
    if C != "-":
        commands["C"] = (step, [C, step])
    if NODE != "-":
        must(BIN / "mtbal-rewrite", step, split, "--states", work / "Node.js.npz", "-q")
        commands["Node.js"] = (split, [NODE, "examples/node/train.mjs", split])
    for label, (graph, command) in commands.items():
        states = work / f"{label}.npz"
        done = run(*command, DATA, states, 20, 32, 0.003)
        if check(done.returncode == 0, label, done.stderr):
            compare(label, printed(done.stdout), want)
            network(label, graph, states, trained, work)
    if CHROMIUM != "-":
        page(want, trained, work)


def page(want, trained, work):
    done = run(NODE, "tests/examples/page.mjs", "examples/node_modules/playwright-core", CHROMIUM, "build/web", 20, 0.003,
               work / "page.json", *sys.argv[5:])
    if not check(done.returncode == 0, "the page", done.stderr):
        return
    got = json.loads((work / "page.json").read_text())
    columns = {name: [row[i] for row in got["rows"]] for i, name in enumerate(got["heads"])}
    compare("the page", columns, {n: v for n, v in want.items() if n in columns})
    check(len(columns) > 2, "the page's table", got["heads"])
    check(not got["said"], "the page's console", got["said"])
    check(got["blank"] == 0, "the page's drawings", f"{got['blank']} are blank")
    check(got["accuracy"] > 80, "the page's digits", got["accuracy"])
    check(got["calibrated"][1] < got["equal"][1], "the page: calibrated weights do the digits good", got)
    network("the page", "build/web/step.onnx", work / "page.json.npz", trained, work)
    if got.get("webgpu"):
        compare("the page, WebGPU", {n: [got["webgpu"][0][i]] for i, n in enumerate(got["heads"])},
                {n: [want[n][0]] for n in columns if n in want}, falls=False)
    else:
        print("examples: this Chromium has no WebGPU; the page was tried with WebAssembly only")


with tempfile.TemporaryDirectory() as folder:
    for optimizer in RATES:
        in_python(optimizer, Path(folder))
    loops(Path(folder))
missing = [name for name, found in (("Node.js", NODE), ("C", C), ("the page", CHROMIUM)) if found == "-"]
print(f"examples: onnxruntime {onnxruntime.__version__}" + (f"; not tried: {', '.join(missing)}" if missing else ""))
print(f"examples: {passed} passed, {failed} failed")
sys.exit(failed != 0)
