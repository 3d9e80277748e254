"""Gradients of single operators against PyTorch: samples of its own operator and module databases, each as a model of two
losses (loss_a: the sum of <output, a fixed random tensor>; loss_b: the sum of 0.5 mean(output^2)), exported, rewritten by
mtbal-rewrite, run by mtbal-run, and compared with torch.autograd.

  python opinfo.py BIN [--exporter script|dynamo] [--opset N] [--samples N] [--only GLOB] [--part I/N] [--keep DIR]

Prints one line a case that fails, with what failed, then a table of counts. A case that the exporter, ONNX Runtime or autograd
cannot do, or whose losses ONNX Runtime computes otherwise than torch, says nothing about us and is left out.
"""
import argparse
import collections
import fnmatch
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

MAX_ELEMENTS, CASE_SECONDS = 20000, 40
TOLERANCE = 1e-4  # of a loss's largest entry


class Case(torch.nn.Module):
    """Calls f over arguments in which the tensors were replaced by parameters and inputs."""

    def __init__(self, f, args, kwargs, module=None):
        super().__init__()
        self.f, self.args, self.kwargs, self.inputs = f, None, None, []
        self.count = 0
        if module is not None:
            self.mod = module
            self.f = lambda *a, **k: self.mod(*a, **k)
        self.args, self.kwargs = self.take(args), self.take(kwargs)
        self.fixed = 0

    def take(self, a):
        if isinstance(a, torch.Tensor):
            name = f"p{self.count}"
            self.count += 1
            if a.dtype == torch.float32 and (a.requires_grad or not self.of_module()):
                self.register_parameter(name, torch.nn.Parameter(a.detach().clone()))
            else:
                name = "c" + name[1:]
                self.register_buffer(name, a.detach().clone())
            return ("tensor", name)
        if isinstance(a, (list, tuple)):
            return (type(a) if type(a) in (list, tuple) else tuple, [self.take(x) for x in a])
        if isinstance(a, dict):
            return (dict, {k: self.take(v) for k, v in a.items()})
        return ("value", a)

    def of_module(self):
        return hasattr(self, "mod")

    def give(self, a):
        kind, what = a
        if kind == "tensor":
            return getattr(self, what)
        if kind == "value":
            return what
        if kind is dict:
            return {k: self.give(v) for k, v in what.items()}
        return kind(self.give(x) for x in what)

    def outputs(self):
        y = self.f(*self.give(self.args), **self.give(self.kwargs))
        flat = torch.utils._pytree.tree_leaves(y)
        return [t for t in flat if isinstance(t, torch.Tensor) and t.dtype == torch.float32 and t.numel()]

    def fix(self):
        """The random tensors of loss_a, of the outputs' sizes."""
        with torch.no_grad():
            ys = self.outputs()
        generator = torch.Generator().manual_seed(1)
        for i, y in enumerate(ys):
            self.register_buffer(f"r{i}", torch.randn(y.shape, generator=generator))
        self.fixed = len(ys)

    def forward(self):
        a = b = 0
        for i, y in enumerate(self.outputs()):
            a = a + (y * getattr(self, f"r{i}")).sum()
            b = b + 0.5 * (y * y).mean()
        return a, b


class Excluded(Exception):
    pass


def timed_out(*_):
    raise Excluded("too slow")


def cases(samples, only):
    """(name, function giving a Case): samples spread over each list, so that rare forms appear too."""
    for op in op_db:
        name = "op_" + re.sub(r"\W", "_", op.name + ("_" + op.variant_test_name if op.variant_test_name else ""))
        if only and not fnmatch.fnmatch(name, only):
            continue
        if not op.supports_autograd or torch.float32 not in op.supported_dtypes("cpu"):
            continue
        try:
            torch.manual_seed(0)
            found = []
            for s in op.sample_inputs("cpu", torch.float32, requires_grad=True):
                found.append(s)
                if len(found) >= 60:
                    break
        except Exception:
            continue
        for i in sorted(set(np.linspace(0, len(found) - 1, min(samples, len(found))).astype(int))) if found else []:
            s = found[i]
            yield f"{name}_{i}", lambda op=op, s=s: Case(op.op, (s.input, *s.args), s.kwargs)
    for m in module_db:
        name = "mod_" + re.sub(r"\W", "_", m.name)
        if only and not fnmatch.fnmatch(name, only):
            continue
        try:
            torch.manual_seed(0)
            found = m.module_inputs_func(m, device="cpu", dtype=torch.float32, requires_grad=True, training=True)
        except Exception:
            continue
        for i in sorted(set(np.linspace(0, len(found) - 1, min(samples, len(found))).astype(int))) if found else []:
            s = found[i]
            if s.forward_input is None:
                continue

            def build(m=m, s=s):
                torch.manual_seed(0)
                module = m.module_cls(*s.constructor_input.args, **s.constructor_input.kwargs).train()
                return Case(None, s.forward_input.args, s.forward_input.kwargs, module)
            yield f"{name}_{i}", build


def export(case, path, exporter, opset):
    if exporter == "script":
        torch.onnx.export(case, (), path, dynamo=False, opset_version=opset, do_constant_folding=False,
                          training=torch.onnx.TrainingMode.TRAINING, output_names=["loss_a", "loss_b"],
                          keep_initializers_as_inputs=False)
    else:
        torch.onnx.export(case, (), path, dynamo=True, opset_version=opset, output_names=["loss_a", "loss_b"],
                          optimize=False, verbose=False, external_data=False)


def truth(build):
    case = build()
    size = sum(p.numel() for p in case.parameters())
    if size > MAX_ELEMENTS or not any(True for _ in case.parameters()):
        raise Excluded("large, or without parameters")
    case.fix()
    if not case.fixed:
        raise Excluded("no float output")
    losses = case()
    names, values = zip(*case.named_parameters())
    if not all(isinstance(l, torch.Tensor) and l.requires_grad and torch.isfinite(l) for l in losses):
        raise Excluded("not differentiable, or not finite")
    grads = [torch.autograd.grad(l, values, retain_graph=True, allow_unused=True) for l in losses]
    grads = [{n: torch.zeros_like(v) if g is None else g for n, v, g in zip(names, values, gs)} for gs in grads]
    if not all(torch.isfinite(g).all() for gs in grads for g in gs.values()):
        raise Excluded("gradient not finite")
    if not any(g.abs().max() > 0 for gs in grads for g in gs.values() if g.numel()):
        raise Excluded("gradient zero")
    with torch.no_grad():
        again = case()
    if not all(torch.allclose(p, q, rtol=1e-5) for p, q in zip(losses, again)):
        raise Excluded("random")
    return case, [float(l.detach()) for l in losses], [{n: g.numpy() for n, g in gs.items()} for gs in grads]


def close(have, want):
    return abs(have - want) <= 1e-3 * max(abs(want), 1e-3)


def attempt(name, build, options, folder):
    """None: right; else (kind, text)."""
    case, losses, grads = truth(build)
    path, step = folder / f"{name}.onnx", folder / f"{name}.step.onnx"
    export(case, str(path), options.exporter, options.opset)
    model = onnx.load(path)
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 4
    session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), session_options)
    if session.get_inputs():
        raise Excluded("inputs")
    theirs = session.run(None, {})
    if not all(close(float(np.asarray(h).reshape(-1)[0]), w) for h, w in zip(theirs, losses)):
        raise Excluded("ONNX Runtime's losses differ")
    have = {i.name for i in model.graph.initializer}
    trained = [n for n in grads[0] if n in have]
    if not trained:
        raise Excluded("no parameter is left")
    ops = sorted({n.op_type for n in model.graph.node} |
                 {n.op_type for f in model.functions for n in f.node})
    np.savez(folder / "in.npz", none=np.zeros(1, np.float32))
    command = [options.bin / "mtbal-rewrite", path, step, "--optimizer", "none", "--outputs", "task-grads", "--quiet"]
    for n in trained:
        command += ["--train", n]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=20)
    if done.returncode:
        return f"rewrite {done.returncode}", done.stderr.strip()[:600], ops
    out = folder / "out.npz"
    out.unlink(missing_ok=True)
    done = subprocess.run([str(options.bin / "mtbal-run"), str(step), "--limit", "1", "--outputs", str(out), "--quiet"],
                          capture_output=True, text=True, timeout=20)
    if done.returncode:
        return f"run {done.returncode}", done.stderr.strip()[:600], ops
    arrays = np.load(out)
    for t, letter in enumerate("ab"):
        key = f"loss_{letter}"
        if not close(float(arrays[key].reshape(-1)[0]), losses[t]):
            return "loss", f"{key} is {arrays[key]}, not {losses[t]}", ops
    scale = max((np.abs(g).max() for gs in grads for g in gs.values() if g.size), default=0)
    for t, letter in enumerate("ab"):
        most = max(max((np.abs(g).max() for g in grads[t].values() if g.size), default=0), 1e-4 * scale, 1e-3)
        for n in trained:
            key = f"mtbal/task_grad/loss_{letter}/{n}"
            if key not in arrays.files and not grads[t][n].any():
                continue  # a parameter that no task reaches has no output
            if key not in arrays.files:
                return "gradient", f"there is no {key}", ops
            got = arrays[key]
            got = got.reshape(grads[t][n].shape) if got.size == grads[t][n].size else got
            if got.shape != grads[t][n].shape:
                return "gradient", f"{key} has shape {got.shape}, not {grads[t][n].shape}", ops
            if got.size and not np.abs(got - grads[t][n]).max() <= TOLERANCE * most:
                return "gradient", f"{key} is off by {np.abs(got - grads[t][n]).max() / most:.2g} of {most:.3g}", ops
    return None


def attempt_apart(name, build, options, folder):
    """The same in a process of its own: PyTorch's exporter aborts on some operators."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            signal.alarm(CASE_SECONDS)
            result = "tried", attempt(name, build, options, folder)
        except (Exception, Excluded) as e:
            result = "excluded", str(e)[:40] if isinstance(e, Excluded) else type(e).__name__
        os.write(writing, pickle.dumps(result))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    what, result = pickle.loads(said) if said else ("excluded", "the process died")
    if what == "excluded":
        raise Excluded(result)
    return result


def golden(folder, name, build, keep):
    """The case as tests/data/gradient_cases has it."""
    case, losses, grads = truth(build)
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{name}.onnx").write_bytes((folder / f"{name}.onnx").read_bytes())
    arrays = {f"loss.{t}": np.float32(losses[t]) for t in range(2)}
    have = {i.name for i in onnx.load(folder / f"{name}.onnx").graph.initializer}
    arrays |= {f"grad.{t}.{n}": g for t in range(2) for n, g in grads[t].items() if n in have}
    np.savez(keep / f"{name}.npz", **arrays)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin", type=Path)
    parser.add_argument("--exporter", choices=["script", "dynamo"], default="script")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--only")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, timed_out)
    counts, excluded = collections.Counter(), collections.Counter()
    started = time.time()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for at, (name, build) in enumerate(cases(options.samples, options.only)):
            if at % parts != part:
                continue
            try:
                saved = os.dup(1), os.dup(2)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1), os.dup2(null, 2)
                try:
                    wrong = attempt_apart(name, build, options, folder)
                finally:
                    os.dup2(saved[0], 1), os.dup2(saved[1], 2)
                    for fd in (*saved, null):
                        os.close(fd)
                counts["right" if wrong is None else wrong[0]] += 1
                if wrong:
                    print(f"{name}: {wrong[0]}: {wrong[1]}".replace("\n", " | "), "OPS", *wrong[2], flush=True)
                if options.keep:
                    golden(folder, name, build, options.keep)
            except (Exception, Excluded) as e:
                excluded[str(e)[:40] if isinstance(e, Excluded) else type(e).__name__] += 1
            for f in folder.iterdir():
                f.unlink()
    print(f"{options.exporter} {options.opset}: {sum(counts.values())} cases in {time.time() - started:.0f} s:",
          ", ".join(f"{v} {k}" for k, v in counts.most_common()))
    print("left out:", ", ".join(f"{v} {k}" for k, v in excluded.most_common()))
    sys.exit(any(k != "right" for k in counts))


if __name__ == "__main__":
    main()
