"""Stock ONNX Runtime against mtbal-run on the very same step graph, and ONNX's checker on every file that we write.

For every model, with functions and with --inline-functions, at batch 1, 5 and as recorded: all outputs of one step (losses, weights,
norms, cosines, Gram matrix, gradients, per-task gradients, next states). Then 10 steps of every optimizer, feeding
mtbal/next/* back. Losses also against PyTorch's golden numbers, and gradients against finite differences.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

BIN = Path(sys.argv[1])
DATA = Path("tests/data/models")
FILES = [
    ("mlp_cls_reg", "model.op13.onnx"), ("mlp_cls_reg", "model.op17.onnx"), ("mlp_cls_reg", "static.onnx"),
    ("mlp_cls_reg", "inits_as_inputs.onnx"), ("mlp_cls_reg", "functions.onnx"),
    ("cnn_nyu", "model.op13.onnx"), ("cnn_nyu", "model.op14.onnx"), ("cnn_nyu", "model.op17.onnx"),
    ("cnn_nyu", "eval_bn.onnx"), ("cnn_nyu", "preserve_dyn_hw.onnx"),
    ("transformer_glue", "model.op13.onnx"), ("transformer_glue", "model.op17.onnx"),
    ("transformer_glue", "torch_encoder_layer.onnx"),
    ("fixtures", "control_flow.onnx"), ("fixtures", "double.onnx"), ("fixtures", "dynamo_like.onnx"),
    ("fixtures", "external.onnx"), ("fixtures", "metadata_ir10_fields.onnx"), ("fixtures", "tied.onnx"),
    ("fixtures", "weights_as_constants.onnx"),
    ("rnn_tag", "model.op13.onnx"), ("rnn_tag", "model.op17.onnx"), ("rnn_steps", "model.op17.onnx"),
    ("mmoe", "model.op13.onnx"),
]
HEADS = {"heads.onnx": ["--loss", "loss_cls=cross-entropy:{0},label", "--loss", "loss_reg=mse:{1},target"]}
OPTIMIZERS = ["sgd", "momentum", "adam", "adamw"]
# Methods whose weights a step computes from the cosines of the task gradients, and what else goes into them.
METHODS = [["--balance", method, *more] for method in ("imtl-g", "nash") for more in
           ([], ["--norm-over", "features"], ["--norm-over", "last-shared", "--scale", "unit"],
            ["--norm-over", "all", "--apply", "shared"])]
passed = failed = 0


def check(ok, label, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAILED {label}: {detail}", flush=True)
    return ok


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    return done.returncode, done.stderr


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def golden_inputs(folder, path):
    """Recorded inputs where there are some, else random ones that fit the graph."""
    golden = DATA / folder / "golden.npz"
    if not golden.exists() and folder == "fixtures":
        golden = DATA / "mlp_cls_reg" / "golden.npz"
    recorded = {}
    if golden.exists():
        with np.load(golden) as npz:
            recorded = {k[6:]: npz[k] for k in npz.files if k.startswith("input/")}
    model = onnx.load(str(path), load_external_data=False)
    constants = {i.name for i in model.graph.initializer}
    rng, found = np.random.default_rng(7), {}
    for i in model.graph.input:
        if i.name in constants:
            continue
        kind = onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)
        shape = [d.dim_value or 6 for d in i.type.tensor_type.shape.dim]
        have = recorded.get(i.name)
        fits = have is not None and len(shape) == have.ndim and all(
            not d.dim_value or d.dim_value == n for d, n in zip(i.type.tensor_type.shape.dim, have.shape))
        if fits:
            found[i.name] = have.astype(kind)
        elif np.issubdtype(kind, np.floating):
            found[i.name] = rng.normal(size=shape).astype(kind)
        else:
            found[i.name] = rng.integers(0, 2, shape).astype(kind)
    dynamic = all(i.type.tensor_type.shape.dim and i.type.tensor_type.shape.dim[0].dim_param
                  for i in model.graph.input if i.name not in constants)
    return found, dynamic


def rebatch(feeds, n):
    return {k: np.resize(v, (n,) + v.shape[1:]) for k, v in feeds.items()}


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return np.inf
    return float(np.max(np.abs(a - b), initial=0) / max(np.max(np.abs(b), initial=0), 1e-3))


def one_step(label, step, feeds, work):
    np.savez(work / "in.npz", **feeds)
    code, error = run(BIN / "mtbal-run", step, "--inputs", work / "in.npz", "--outputs", work / "out.npz", "-q")
    if not check(code == 0, f"{label} mtbal-run", error):
        return
    ours = np.load(work / "out.npz")
    theirs = session(step)
    names = [o.name for o in theirs.get_outputs()]
    values = theirs.run(names, feeds)
    worst = max(((relative(ours[n], v) if n in ours.files else np.inf, n) for n, v in zip(names, values)), default=(0, ""))
    check(worst[0] < 1e-4, label, f"{worst[1]} differs by {worst[0]:.3g}")


def steps(label, step, feeds, work, count=50):
    np.savez(work / "in.npz", **feeds)
    code, error = run(BIN / "mtbal-run", step, "--inputs", work / "in.npz", "--limit", count, "--log", work / "log.jsonl",
                      "-q", "--set", "lr=0.001")
    if not check(code == 0, f"{label} mtbal-run", error):
        return
    log = [json.loads(line) for line in open(work / "log.jsonl")]
    model = onnx.load(str(step), load_external_data=False)
    state = json.loads({p.key: p.value for p in model.metadata_props}["mtbal.state"])
    tasks = json.loads({p.key: p.value for p in model.metadata_props}["mtbal.tasks"])
    theirs = session(step)
    lr = next(i for i in model.graph.initializer if i.name == "mtbal/lr")
    now = {**feeds, "mtbal/lr": np.asarray(0.001, onnx.helper.tensor_dtype_to_np_dtype(lr.data_type))}
    worst = 0.0
    for i in range(count):
        got = theirs.run(list(tasks.values()) + list(state.values()), now)
        for name, loss in zip(tasks, got):
            worst = max(worst, abs(float(loss) - log[i]["loss"][name]) / max(abs(float(loss)), 1e-3))
        now.update(zip(state, got[len(tasks):]))
    check(worst < 1e-3, label, f"a loss differs by {worst:.3g} within {count} steps")


def examine(folder, file, work):
    source = DATA / folder / file
    feeds, dynamic = golden_inputs(folder, source)
    for flags in ([], ["--inline-functions"]):
        label = f"{folder}/{file} {' '.join(flags)}"
        step = work / "step.onnx"
        code, error = run(BIN / "mtbal-rewrite", source, step, "--outputs", "norms,gram,grads,task-grads", "-q", *flags)
        if not check(code == 0, f"{label} rewrite", error):
            continue
        try:
            onnx.checker.check_model(str(step), full_check=True)
            check(True, label)
        except Exception as problem:  # the checker's own words
            check(False, f"{label} onnx.checker", str(problem)[:300])
        one_step(label, step, feeds, work)
        for n in (1, 5) if dynamic else ():
            one_step(f"{label} batch {n}", step, rebatch(feeds, n), work)
    for method in METHODS:
        for flags in ([], ["--inline-functions"]):
            label = f"{folder}/{file} {' '.join(method + flags)}"
            step = work / "step.onnx"
            code, error = run(BIN / "mtbal-rewrite", source, step, "--outputs", "norms,grads", "-q", *method, *flags)
            if not check(code == 0, f"{label} rewrite", error):
                continue
            onnx.checker.check_model(str(step), full_check=True)
            one_step(label, step, feeds, work)
            if not flags and len(method) == 2:
                steps(label, step, feeds, work)
    for optimizer in OPTIMIZERS:
        step = work / "step.onnx"
        code, error = run(BIN / "mtbal-rewrite", source, step, "--optimizer", optimizer, "-q")
        if check(code == 0, f"{folder}/{file} {optimizer}", error):
            steps(f"{folder}/{file} {optimizer}", step, feeds, work)


def summary():
    print(f"onnxruntime {ort.__version__}, onnx {onnx.__version__}")
    print(f"{Path(sys.argv[0]).name}: {passed} passed, {failed} failed")
    return failed != 0


def main():
    with tempfile.TemporaryDirectory() as folder:
        for place, name in FILES:
            try:
                examine(place, name, Path(folder))
            except Exception as problem:  # one model must not hide the others
                check(False, f"{place}/{name}", f"{type(problem).__name__}: {str(problem)[:300]}")
            print(f"{place}/{name}: {passed} passed, {failed} failed so far", flush=True)
    return summary()


if __name__ == "__main__":
    sys.exit(main())
