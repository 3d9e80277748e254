"""The artifacts of --target ort-training in ONNX Runtime's own training sessions, against mtbal-run on the step graph.

training.py BIN SESSION...    a session: VERSION=node:PACKAGE or VERSION=wheel:PYTHON
For every model: 10 steps of SGD, Adam and AdamW in Node.js and with the wheel, of 1.19.2; a few of them with older ones.
Losses, norms, weights and cosines of each step, then all parameters and running statistics; PyTorch's golden trajectories;
the checkpoint as written and as saved by the wheel, read back; the same training model in stock ONNX Runtime.
"""
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser, version_converter

BIN = Path(sys.argv[1])
SESSIONS = [(version, *what.split(":", 1)) for version, what in (a.split("=", 1) for a in sys.argv[2:])]
DATA, STEPS = Path("tests/data/models"), 10
MLP, CNN, GLUE, FIX = "mlp_cls_reg", "cnn_nyu", "transformer_glue", "fixtures"
FILES = [(MLP, "model.op13.onnx"), (MLP, "model.op17.onnx"), (MLP, "static.onnx"), (MLP, "inits_as_inputs.onnx"),
         (MLP, "functions.onnx"), (CNN, "model.op13.onnx"), (CNN, "model.op14.onnx"), (CNN, "model.op17.onnx"),
         (CNN, "eval_bn.onnx"), (CNN, "preserve_dyn_hw.onnx"), (GLUE, "model.op13.onnx"), (GLUE, "model.op17.onnx"),
         (GLUE, "torch_encoder_layer.onnx"), (FIX, "control_flow.onnx"), (FIX, "dynamo_like.onnx"),
         (FIX, "external.onnx"), (FIX, "ext_many/external_many.onnx"), (FIX, "metadata.onnx"),
         (FIX, "metadata_ir10_fields.onnx"), (FIX, "tied.onnx"), (FIX, "weights_as_constants.onnx"),
         ("rnn_tag", "model.op13.onnx"), ("rnn_steps", "model.op17.onnx"), ("mmoe", "model.op13.onnx")]
OPTIMIZERS = ["sgd", "adam", "adamw"]
SGD_RATES = {MLP: 0.05, CNN: 0.02, GLUE: 0.05, "rnn_steps": 0.05}  # of the recorded trajectories
MAIN = {"model.op17.onnx", "model.op14.onnx", "external.onnx"}  # these with every optimizer, others with adam
NOISE = ("k.bias", "in_proj_bias")  # softmax does not see a key's bias: its gradient is rounding, which Adam makes large
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


def inputs_of(folder, path):
    """Recorded inputs where there are some, else random ones that fit the graph."""
    golden = DATA / (MLP if folder == FIX else folder) / "golden.npz"
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
        else:
            draw = rng.normal(size=shape) if np.issubdtype(kind, np.floating) else rng.integers(0, 2, shape)
            found[i.name] = draw.astype(kind)
    return found


def initializers(path):
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(str(path)).graph.initializer}


def relative(a, b):
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(np.max(np.abs(a - b), initial=0) / max(np.max(np.abs(b), initial=0), 1e-3)) if a.size == b.size else np.inf


def reference(job, source, rewrite, settings, data):
    """mtbal-run on the step graph: outputs of every step, the weights before and after; a calibrated step graph."""
    step, calibrated, logs, work = job["work"] / "step.onnx", job["work"] / "calibrated.onnx", [], job["work"]
    commands = [("mtbal-rewrite", source, step, "--optimizer", job["optimizer"], *rewrite)]
    commands += [("mtbal-calibrate", step, "--data", data, "--max-epochs", 40)] if data else []
    for command in commands:
        code, error = run(BIN / command[0], *command[1:], "-q")
        if not check(code == 0, f"{job['label']} {command[0]}", error):
            return None
    before = initializers(step)  # now: external data are the step graph's
    if data:
        shutil.copy(step, calibrated)
    for lr in dict.fromkeys(job["rates"]):
        chosen = [x for name, value in {"lr": lr, **settings}.items() for x in ("--set", f"{name}={value}")]
        code, error = run(BIN / "mtbal-run", step, "--inputs", work / "in.npz", "--limit", job["rates"].count(lr), *chosen,
                          "--log", work / "log.jsonl", "--save", step, "-q")
        if not check(code == 0, f"{job['label']} mtbal-run", error):
            return None
        logs += [json.loads(line) for line in open(work / "log.jsonl")]
    code, error = run(BIN / "mtbal-rewrite", "--inference", step, work / "after.onnx", "-q")
    job.update(logs=logs, before=before)
    if check(code == 0, f"{job['label']} --inference", error):
        job["after"] = initializers(work / "after.onnx")
        return calibrated if data else source


def compare(label, got, job, tolerance=1e-3):
    worst, after = (0.0, ""), job["after"]
    model = onnx.load(str(job["artifacts"] / "training_model.onnx"), load_external_data=False)
    losses = json.loads({p.key: p.value for p in model.metadata_props}["mtbal.tasks"])
    for i, log in enumerate(job["logs"]):
        now = got["steps"][i]
        pairs = [("mtbal/loss", log["total"])] + [(losses[task], x) for task, x in log["loss"].items()]
        for kind, prefix in (("grad_norm", "mtbal/grad_norm/"), ("weight", "mtbal/weight/")):
            pairs += [(prefix + task, x) for task, x in log[kind].items()]
        for name, x in pairs:
            # a norm may jump where one activation crosses a kink: what is trained is held to 1e-3
            slack = 10 if "grad_norm" in name else 1
            worst = max(worst, (relative(now[name], x) / slack, f"{name} in step {i}"))
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    at = 0
    for name in params_in_order(model, job["feeds"]):
        n = int(np.prod(shapes[name], dtype=int))
        if name in after and not name.endswith(NOISE):
            worst = max(worst, (relative(got["params"][at:at + n], after[name].ravel()), name))
        at += n
    check(at == len(got["params"]), f"{label} parameters", f"{at} values in the model, {len(got['params'])} in the session")
    check(worst[0] < tolerance, label, f"{worst[1]} differs by {worst[0]:.3g}")
    check(got["names"][0] == "mtbal/loss" and not any(n.endswith("_grad") for n in got["names"]), label, got["names"])


def params_in_order(model, feeds):
    """Parameters, then frozen ones: inputs behind what is fed."""
    names = [i.name for i in model.graph.input]
    fed = {*feeds, "lazy_reset_grad", "mtbal/lr"}
    return [n for n in names if n not in fed and not n.endswith("_grad.accumulation.buffer")]


def in_node(jobs, work, package):
    """A process for each: a session that hangs or aborts must not hide the others."""
    for j in jobs:
        text = [{"folder": str(j["artifacts"]), "steps": STEPS, "rates": j["rates"] if j["feeds_lr"] else None, "inputs": {
            k: {"type": str(v.dtype), "dims": list(v.shape), "data": v.ravel().tolist()} for k, v in j["feeds"].items()}}]
        (work / "node.jobs").write_text(json.dumps(text))
        try:
            subprocess.run(["node", "tests/ort/train.mjs", package, str(work / "node.jobs"), str(work / "node.json")],
                           capture_output=True, timeout=60, check=True)
            yield json.loads((work / "node.json").read_text())[0]
        except subprocess.SubprocessError as problem:
            yield {"error": str(problem)}


def in_wheel(jobs, work, python):
    texts = [{"folder": str(j["artifacts"]), "steps": STEPS, "rates": j["rates"] if j["feeds_lr"] else None,
              "update": j["update"], "npz": str(j["work"] / "in.npz"), "saved": str(j["artifacts"]) + ".saved"} for j in jobs]
    (work / "wheel.jobs").write_text(json.dumps(texts))
    code, error = run(python, "tests/ort/train_wheel.py", work / "wheel.jobs", work / "wheel.json")
    return json.loads((work / "wheel.json").read_text()) if check(code == 0, "the wheel", error) else []


def back(label, artifacts, checkpoint, want, work):
    """--inference gives exactly these values."""
    code, error = run(BIN / "mtbal-rewrite", "--inference", artifacts / "training_model.onnx", "--checkpoint", checkpoint,
                      work / "back.onnx", "-q")
    if check(code == 0, f"{label} --checkpoint", error):
        have = initializers(work / "back.onnx")
        differ = [n for n, x in want.items() if n in have and not np.array_equal(have[n].ravel(), x.ravel())]
        check(not differ and len(set(want) & set(have)) > 0, f"{label} read back", differ)


def in_stock(label, artifacts, feeds, values, first):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(artifacts / "training_model.onnx"), options, providers=["CPUExecutionProvider"])
    now = dict(feeds)
    for i in session.get_inputs():
        if i.name not in now:
            one = np.ones(i.shape, bool if "bool" in i.type else np.float32)
            now[i.name] = values.get(i.name, one).reshape(i.shape)
    names = [o.name for o in session.get_outputs()]
    got = dict(zip(names, session.run(names, now)))
    worst = max((relative(got[n], x), n) for n, x in first.items())
    check(worst[0] < 1e-3, f"{label} in stock ONNX Runtime", f"{worst[1]} differs by {worst[0]:.3g}")
    params = [n[:-5] for n in names if n.endswith("_grad")]
    check(params and all(got[n + "_grad"].shape == now[n].shape for n in params), f"{label} gradients in stock ONNX Runtime")


def checkpoint_values(got, job):
    model = onnx.load(str(job["artifacts"] / "training_model.onnx"), load_external_data=False)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    values, at = {}, 0
    for name in params_in_order(model, job["feeds"]):
        n = int(np.prod(shapes[name], dtype=int))
        values[name], at = np.asarray(got["params"][at:at + n], np.float32), at + n
    return values


def same_losses(label, got, model, feeds):
    """The network with a checkpoint's weights gives what the session's evaluation gave."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs() if o.name in got["eval"]]
    values = session.run(names, {i.name: feeds[i.name] for i in session.get_inputs()})
    worst = max(relative(got["eval"][n], v) for n, v in zip(names, values))
    check(worst < 1e-4, f"{label} evaluation", f"a loss differs by {worst:.3g}")


def golden(job, got):
    """PyTorch's ten steps, where they were recorded with this learning rate."""
    if not job["golden"]:
        return
    with np.load(DATA / job["golden"] / "golden.npz") as npz:
        want = npz[f"traj_{job['optimizer']}"]
    tasks = [n for n in got["names"] if not n.startswith("mtbal/")][:want.shape[1]]
    have = np.array([[s[t] for t in tasks] for s in got["steps"]])
    check(relative(have, want) < 1e-3, f"{job['label']} against PyTorch", f"{relative(have, want):.3g}")


def prepare(work, label, source, feeds, optimizer, rates, *, target="ort-training", rewrite=(), settings={}, own=(),
            data=None, golden=None, feeds_lr=False, update=None, random=False):
    """Artifacts, and what mtbal-run gives. rewrite: options of both; settings: of mtbal-run; own: of the artifacts;
    data: to calibrate with first; update: scalars that the session sets, after it has loaded the checkpoint."""
    work = Path(tempfile.mkdtemp(dir=work))
    job = dict(label=label, random=random, optimizer=optimizer, rates=rates, feeds=feeds, golden=golden, feeds_lr=feeds_lr, work=work,
               update={k: float(v) for k, v in (update or {}).items()}, artifacts=work / "artifacts")
    np.savez(work / "in.npz", **{k: v for k, v in feeds.items() if not k.startswith("mtbal/")})
    start = reference(job, source, rewrite, settings, data)
    if not start:
        return []
    job["before"].update({} if update else settings)
    np.savez(work / "in.npz", **feeds)
    code, error = run(BIN / "mtbal-rewrite", start, job["artifacts"], "--target", target, "--optimizer", optimizer, "-q",
                      "--set", "lr=input" if feeds_lr else f"lr={rates[0]}", *rewrite, *own)
    if not check(code == 0, f"{label} rewrite", error):
        return []
    back(label, job["artifacts"], job["artifacts"] / "checkpoint", job["before"], work)
    return [job]


def every_model(work):
    for place, name in FILES:
        for optimizer in OPTIMIZERS if name in MAIN else ["adam"]:
            rate = (SGD_RATES if optimizer == "sgd" else {}).get(place, 0.001 if optimizer == "adam" else 0.002)
            recorded = place != FIX and name.startswith("model.") and optimizer != "adamw"
            try:
                yield from prepare(work, f"{place}/{name} {optimizer}", DATA / place / name,
                                   inputs_of(place, DATA / place / name), optimizer, [rate] * STEPS,
                                   golden=place if recorded else None)
            except Exception as problem:  # one model must not hide the others
                check(False, f"{place}/{name}", f"{type(problem).__name__}: {str(problem)[:300]}")


# Two inputs go through one BatchNormalization, as in a Siamese network: its statistics are read twice in a step.
SIAMESE = """<ir_version: 8, opset_import: ["" : 17]>
siamese (float[n,4] a, float[n,4] b, float[n,3] y) => (float near, float far)
<float[4,3] w, float[3] scale, float[3] shift, float[3] mean = {0,0,0}, float[3] var = {1,1,1}> {
  pa = MatMul (a, w)
  pb = MatMul (b, w)
  na, mean1, var1 = BatchNormalization <training_mode = 1, momentum = 0.8> (pa, scale, shift, mean, var)
  nb, mean2, var2 = BatchNormalization <training_mode = 1, momentum = 0.8> (pb, scale, shift, mean, var)
  d = Sub (na, nb)
  dd = Mul (d, d)
  near = ReduceMean <keepdims = 0> (dd)
  e = Sub (na, y)
  ee = Mul (e, e)
  far = ReduceMean <keepdims = 0> (ee)
}"""


def siamese(path, rng):
    model = parser.parse_model(SIAMESE)
    del model.graph.initializer[:]
    for name, x in dict(w=rng.normal(size=(4, 3)), scale=1 + np.arange(3) / 4, shift=np.arange(3) / 9, mean=np.zeros(3),
                        var=np.ones(3)).items():
        model.graph.initializer.append(numpy_helper.from_array(x.astype(np.float32), name))
    onnx.save(model, path)
    return {n: rng.normal(size=(6, 4 if n != "y" else 3)).astype(np.float32) for n in "aby"}


def newer(work):
    model = version_converter.convert_version(onnx.load(str(DATA / MLP / "model.op17.onnx")), 24)
    model.ir_version = 11
    onnx.save(model, str(work / "newer.onnx"))
    return work / "newer.onnx"


def special(work):
    """What not every model needs: rates and weights that are fed, clipping, calibration, newer opsets, shared statistics."""
    source, rng = DATA / MLP / "model.op17.onnx", np.random.default_rng(3)
    feeds = inputs_of(MLP, source)
    changing, steady = [0.001] * (STEPS // 2) + [0.01] * (STEPS // 2), [0.002] * STEPS
    for optimizer in ("sgd", "adamw"):
        yield from prepare(work, f"{optimizer}, the learning rate an input", source, feeds, optimizer, changing, feeds_lr=True)
        yield from prepare(work, f"{optimizer}, clipped", source, feeds, optimizer, [0.05] * STEPS, rewrite=["--clip", 0.1])
    heads = ["--loss", "loss_cls=cross-entropy:logits,label", "--loss", "loss_reg=mse:pred,target"]
    yield from prepare(work, "heads without losses", DATA / MLP / "heads.onnx", feeds, "adam", steady, rewrite=heads)
    # dropout draws otherwise in every runtime: it trains, and without it (evaluation) all agree
    source_p01 = DATA / GLUE / "dropout_p01.onnx"
    yield from prepare(work, "dropout", source_p01, inputs_of(GLUE, source_p01), "adam", steady, random=True)
    g = {"mtbal/calibration/loss_cls": np.array(0.25, np.float32), "mtbal/calibration/loss_reg": np.array(2, np.float32)}
    yield from prepare(work, "calibration an input", source, {**feeds, **g}, "adam", steady, settings=g,
                       own=[x for name in g for x in ("--set", f"{name}=input")])
    yield from prepare(work, "calibration set", source, feeds, "adam", steady, settings=g,
                       own=[x for name, value in g.items() for x in ("--set", f"{name}={value}")])
    yield from prepare(work, "calibration set in the session", source, feeds, "adam", steady, settings=g, update=g)
    many = {"x": rng.normal(size=(64, 16)), "label": rng.integers(0, 5, 64), "target": 10 * rng.normal(size=(64, 2))}
    np.savez(work / "many.npz", **{k: v.astype(feeds[k].dtype) for k, v in many.items()})
    yield from prepare(work, "a calibrated step graph", source, feeds, "adam", steady, data=work / "many.npz")
    yield from prepare(work, "opset 24, IR 11", newer(work), feeds, "adam", steady)
    yield from prepare(work, "shared statistics", work / "siamese.onnx", siamese(work / "siamese.onnx", rng), "sgd", steady)


def few(work, version):
    """For older sessions."""
    source, target = DATA / MLP / "model.op17.onnx", "ort-training-1.17" if version.startswith("1.17") else "ort-training"
    feeds = inputs_of(MLP, source)
    for optimizer in OPTIMIZERS:
        yield from prepare(work, f"{optimizer}", source, feeds, optimizer, [0.002] * STEPS, target=target)
    yield from prepare(work, "opset 24, IR 11", newer(work), feeds, "adam", [0.002] * STEPS, target=target)
    yield from prepare(work, "the learning rate an input", source, feeds, "adamw", [0.001] * 5 + [0.01] * 5, target=target,
                       feeds_lr=True)
    source = DATA / CNN / "model.op14.onnx"
    yield from prepare(work, "running statistics", source, inputs_of(CNN, source), "adam", [0.001] * STEPS, target=target)


def examine(job, got, where):
    label = f"{job['label']} in {where}"
    if not check("error" not in got, label, got.get("error")):
        return False
    if job["random"]:
        losses = [s["mtbal/loss"] for s in got["steps"]]
        check(np.all(np.isfinite(losses)) and min(losses[-3:]) < losses[0], label, losses)
        return True
    compare(label, got, job)
    golden(job, got)
    return True


def examine_saved(job, got, where):
    label = f"{job['label']} saved by {where}"
    back(label, job["artifacts"], f"{job['artifacts']}.saved", checkpoint_values(got, job), job["work"])
    same_losses(label, got, job["work"] / "back.onnx", job["feeds"])


def refused(work):
    for label, want, words, options in (("double", 3, "float", [DATA / FIX / "double.onnx"]),
                                        ("momentum", 2, "no momentum", [DATA / MLP / "model.op17.onnx", "--optimizer", "momentum"])):
        code, error = run(BIN / "mtbal-rewrite", options[0], work / "refused", "--target", "ort-training", *options[1:])
        check(code == want and words in error and not (work / "refused").exists(), label, f"{code}: {error}")


with tempfile.TemporaryDirectory() as folder:
    work = Path(folder)
    jobs = [*every_model(work), *special(work)]
    print(f"training sessions: {len(jobs)} sets of artifacts written, {passed} passed, {failed} failed so far", flush=True)
    for version, kind, tool in SESSIONS:
        where = f"{version} ({'Node.js' if kind == 'node' else 'the wheel'})"
        mine = jobs if version == "1.19.2" else [*few(work, version)]
        mine = [j for j in mine if kind == "wheel" or not j["update"]]  # a page's sessions have no such call
        for job, got in zip(mine, (in_node if kind == "node" else in_wheel)(mine, work, tool)):
            if examine(job, got, where) and kind == "wheel":
                examine_saved(job, got, where)
            elif "error" not in got and version == "1.19.2" and not job["random"]:
                in_stock(job["label"], job["artifacts"], job["feeds"], job["before"], got["steps"][0])
        print(f"training sessions: {where}: {passed} passed, {failed} failed so far", flush=True)
    refused(work)
print(f"training sessions: {passed} passed, {failed} failed")
sys.exit(failed != 0)
