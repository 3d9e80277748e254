"""The training-info form in ONNX's own tools: onnx.checker takes the file, and the main graph and the algorithm joined as onnx.proto
says; stock ONNX Runtime runs the main graph (the network for inference), follows mtbal-run's losses with the joined graph, and runs what
mtbal-rewrite --target standard makes of models that another tool wrote.
"""
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from compare import DATA, OPTIMIZERS, check, golden_inputs, relative, run, session, summary

BIN = Path(sys.argv[1])
MODELS = [("mlp_cls_reg", "model.op13.onnx"), ("mlp_cls_reg", "model.op17.onnx"), ("mlp_cls_reg", "functions.onnx"),
          ("cnn_nyu", "model.op13.onnx"), ("cnn_nyu", "model.op17.onnx"), ("transformer_glue", "model.op17.onnx"),
          ("transformer_glue", "torch_encoder_layer.onnx"), ("fixtures", "external.onnx"), ("fixtures", "double.onnx"),
          ("fixtures", "control_flow.onnx"), ("fixtures", "metadata_ir10_fields.onnx"), ("fixtures", "weights_as_constants.onnx")]
LISTS = ["input", "initializer", "output", "node", "value_info", "sparse_initializer"]
STEPS = 10


def joined(model):
    """ModelProto.graph then algorithm, as one model; every state is an input too, so that a stock runtime can be fed the next one."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.training_info[:]
    for name in LISTS:
        getattr(whole.graph, name).extend(getattr(model.training_info[0].algorithm, name))
    return whole


def with_states_as_inputs(model, bindings):
    listed = {i.name for i in model.graph.input}
    for i in model.graph.initializer:
        if i.name in bindings and i.name not in listed:
            model.graph.input.append(onnx.helper.make_tensor_value_info(i.name, i.data_type, list(i.dims)))
    return model


def follow(label, model, feeds, work):
    """The joined graph, its states fed back by the bindings, against mtbal-run on the file."""
    np.savez(work / "in.npz", **feeds)
    code, error = run(BIN / "mtbal-run", work / "info.onnx", "--inputs", work / "in.npz", "--limit", STEPS, "--log",
                      work / "log.jsonl", "--set", "lr=0.001", "-q")
    if not check(code == 0, f"{label} mtbal-run", error):
        return
    log = [json.loads(line) for line in open(work / "log.jsonl")]
    bindings = {e.key: e.value for e in model.training_info[0].update_binding}
    tasks = json.loads({p.key: p.value for p in model.metadata_props}["mtbal.tasks"])
    whole = with_states_as_inputs(joined(model), bindings)
    onnx.save(whole, work / "whole.onnx")
    runtime, worst = session(work / "whole.onnx"), 0.0
    lr = next(i for i in whole.graph.initializer if i.name == "mtbal/lr")
    now = {**feeds, "mtbal/lr": np.asarray(0.001, onnx.helper.tensor_dtype_to_np_dtype(lr.data_type))}
    for i in range(STEPS):
        got = runtime.run([*tasks.values(), *bindings.values()], now)
        for name, loss in zip(tasks, got):
            worst = max(worst, abs(float(loss) - log[i]["loss"][name]) / max(abs(float(loss)), 1e-3))
        now.update(zip(bindings, got[len(tasks):]))
    check(worst < 1e-3, f"{label} joined", f"a loss differs by {worst:.3g} within {STEPS} steps")


def ours(folder, file, optimizer, work):
    label, source = f"{folder}/{file} {optimizer} training-info", DATA / folder / file
    code, error = run(BIN / "mtbal-rewrite", source, work / "info.onnx", "--target", "training-info", "--optimizer", optimizer, "-q")
    if not check(code == 0, label, error):
        return
    onnx.checker.check_model(str(work / "info.onnx"), full_check=True)
    model = onnx.load(work / "info.onnx", load_external_data=False)
    onnx.save(joined(model), work / "whole.onnx")
    onnx.checker.check_model(str(work / "whole.onnx"), full_check=True)
    feeds, _ = golden_inputs(folder, source)
    main = session(work / "info.onnx")
    run(BIN / "mtbal-rewrite", "--inference", source, work / "network.onnx", "-q")
    network = session(work / "network.onnx")
    names = [o.name for o in network.get_outputs()]
    check([o.name for o in main.get_outputs()] == names, f"{label} outputs")
    worst = max(map(relative, main.run(names, feeds), network.run(names, feeds)))
    check(worst < 1e-5, f"{label} main graph", f"an output differs by {worst:.3g}")
    follow(label, model, feeds, work)


def theirs(path, work):
    """PyTorch's numbers, from the standard form in stock ONNX Runtime."""
    label, arrays = f"{path.name} standard", np.load(path.with_suffix(".npz"))
    code, error = run(BIN / "mtbal-rewrite", path, work / "standard.onnx", "--target", "standard", "-q")
    if not check(code == 0, label, error):
        return
    onnx.checker.check_model(str(work / "standard.onnx"), full_check=True)
    model, runtime = onnx.load(work / "standard.onnx"), session(work / "standard.onnx")
    now = {k[6:]: arrays[k] for k in arrays.files if k.startswith("input/")}
    state = json.loads({p.key: p.value for p in model.metadata_props}.get("mtbal.state", "{}"))
    wanted = {k[7:]: arrays[k] for k in arrays.files if k.startswith("output/")}
    for _ in range(5 if state else 1):
        names = list(state.values()) or list(wanted)
        found = dict(zip(names, runtime.run(names, now)))
        now.update({s: found[o] for s, o in state.items()})
    if state:
        wanted = {k[6:]: arrays[k] for k in arrays.files if k.startswith("state/")}
        found = now
    worst = max((relative(found[k], v), k) for k, v in wanted.items())
    check(worst[0] < 1e-4, label, f"{worst[1]} differs by {worst[0]:.3g}")


def node_test(folder, work):
    """ONNX's node test, its operator replaced, in stock ONNX Runtime."""
    code, error = run(BIN / "mtbal-rewrite", folder / "model.onnx", work / "standard.onnx", "--target", "standard", "-q")
    if not check(code == 0, folder.name, error):
        return

    def read(what, i):
        return numpy_helper.to_array(onnx.load_tensor(folder / "test_data_set_0" / f"{what}_{i}.pb"))

    runtime = session(work / "standard.onnx")
    found = runtime.run(None, {p.name: read("input", i) for i, p in enumerate(runtime.get_inputs())})
    check(all(np.allclose(f, read("output", i), 1e-3, 1e-7) and f.shape == read("output", i).shape
              for i, f in enumerate(found)), f"{folder.name} standard")


with tempfile.TemporaryDirectory() as place:
    work = Path(place)
    jobs = [(ours, m, f, OPTIMIZERS[i % len(OPTIMIZERS)]) for i, (m, f) in enumerate(MODELS)]
    jobs += [(ours, m, "model.op17.onnx", o) for m in ("mlp_cls_reg", "cnn_nyu", "transformer_glue") for o in ("sgd", "adam")]
    jobs += [(theirs, p) for p in sorted(Path("tests/data/training").glob("*.onnx"))]
    jobs += [(node_test, p) for p in sorted(Path("tests/data/onnx_training").iterdir())]
    for job, *arguments in jobs:
        try:
            job(*arguments, work)
        except Exception as problem:  # one model must not hide the others
            check(False, f"{job.__name__} {arguments}", f"{type(problem).__name__}: {str(problem)[:300]}")
sys.exit(summary())
