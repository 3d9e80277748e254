#!/usr/bin/env python3
"""Makes tests/data/goldens: what PyTorch computes, in double precision, for shared networks and batch sizes that were
recorded without goldens. The interpreter below executes the ONNX file node by node with torch operators; it knows nothing
of mtbal. Before it writes, it must reproduce the recorded goldens of tests/data/models.

    pip install torch==2.13.0 onnx numpy;  python tests/torch/goldens.py

Keys as in the recorded golden.npz, except that a gradient of more than 16 entries is stored as 16 sums of its entries under
fixed random signs (`sketch/TASK/PARAM`), beside the task's largest entry (`largest/TASK`)."""
import os

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

MODELS, OUT = "tests/data/models/", "tests/data/goldens/"
SIGNS = 16
GLUE_LR = 0.01
torch.set_num_threads(1)


def tensor(proto):
    array = torch.from_numpy(np.array(numpy_helper.to_array(proto)))
    return array.double() if array.is_floating_point() else array


def ints(t):
    return [int(x) for x in t.reshape(-1)]


# ---------------------------------------------------------------- operators: (env, node's inputs, attributes) -> outputs

def gemm(x, a):
    left, right = (t.T if a.get("trans" + s) else t for t, s in zip(x, "AB"))
    y = a.get("alpha", 1.0) * (left @ right)
    return y + a.get("beta", 1.0) * x[2] if len(x) > 2 else y


def axes_of(x, a, default=None):
    if "axes" in a:
        return list(a["axes"])
    return ints(x[1]) if len(x) > 1 and x[1] is not None else default


def reduce(f):
    def run(x, a):
        axes = axes_of(x, a, list(range(x[0].dim())))
        return f(x[0], axes, bool(a.get("keepdims", 1)))
    return run


def pads(a):
    p = a.get("pads", [0, 0, 0, 0])
    assert p[0] == p[2] and p[1] == p[3]
    return p[:2]


def conv(x, a):
    return F.conv2d(x[0], x[1], x[2] if len(x) > 2 else None, a.get("strides", 1), pads(a), a.get("dilations", 1),
                    a.get("group", 1))


def conv_transpose(x, a):
    return F.conv_transpose2d(x[0], x[1], x[2] if len(x) > 2 else None, a.get("strides", 1), pads(a),
                              a.get("output_padding", 0), a.get("group", 1), a.get("dilations", 1))


def max_pool(x, a):
    return F.max_pool2d(x[0], a["kernel_shape"], a.get("strides", 1), pads(a), a.get("dilations", 1),
                        bool(a.get("ceil_mode", 0)))


def batch_norm(x, a):
    X, scale, bias, mean, var = x[:5]
    momentum, shape = a.get("momentum", 0.9), (1, -1, 1, 1)
    mu, s2 = X.mean((0, 2, 3)), X.var((0, 2, 3), unbiased=False)
    y = (X - mu.view(shape)) / torch.sqrt(s2.view(shape) + a.get("epsilon", 1e-5)) * scale.view(shape) + bias.view(shape)
    return y, mean * momentum + mu.detach() * (1 - momentum), var * momentum + s2.detach() * (1 - momentum), mu, s2


def resize(x, a):
    if len(x) > 3 and x[3] is not None:
        size = ints(x[3])[2:]
    else:
        size = [int(np.floor(d * float(s))) for d, s in zip(x[0].shape[2:], x[2][2:])]
    mode, where = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        return F.interpolate(x[0], size=size, mode="nearest")
    assert mode == "linear"
    return F.interpolate(x[0], size=size, mode="bilinear", align_corners=where == "align_corners")


def layer_norm(x, a):
    shape = x[0].shape[a.get("axis", -1):]
    return F.layer_norm(x[0], shape, x[1].expand(shape), x[2] if len(x) > 2 else None, a.get("epsilon", 1e-5))


def cross_entropy(x, a):
    return F.cross_entropy(x[0], x[1], reduction=a.get("reduction", "mean"), ignore_index=a.get("ignore_index", -100))


def slice_(x, a):
    y, steps = x[0], ints(x[4]) if len(x) > 4 else [1] * len(x[1])
    axes = ints(x[3]) if len(x) > 3 else list(range(len(x[1])))
    for start, end, axis, step in zip(ints(x[1]), ints(x[2]), axes, steps):
        r = range(y.shape[axis])[start:end:step]
        y = y.index_select(axis, torch.tensor(list(r), dtype=torch.long))
    return y


def squeeze(x, a):
    y, axes = x[0], axes_of(x, a, [i for i, d in enumerate(x[0].shape) if d == 1])
    for axis in sorted((i % x[0].dim() for i in axes), reverse=True):
        y = y.squeeze(axis)
    return y


def unsqueeze(x, a):
    axes = axes_of(x, a)
    y, rank = x[0], x[0].dim() + len(axes)
    for axis in sorted(i % rank for i in axes):
        y = y.unsqueeze(axis)
    return y


def gather(x, a):
    axis = a.get("axis", 0) % x[0].dim()
    index = torch.where(x[1] < 0, x[1] + x[0].shape[axis], x[1])
    y = x[0].index_select(axis, index.reshape(-1))
    return y.reshape(list(x[0].shape[:axis]) + list(index.shape) + list(x[0].shape[axis + 1:]))


def cast(x, a):
    to = a["to"]
    return x[0].to({1: torch.double, 11: torch.double, 7: torch.int64, 6: torch.int32, 9: torch.bool, 2: torch.uint8}[to])


def reshape(x, a):
    return x[0].reshape([x[0].shape[i] if d == 0 else d for i, d in enumerate(ints(x[1]))])


def dropout(x, a):
    """As with ratio 0, whatever the ratio: the test sets it to 0 too."""
    return x[0]


def div(x, a):
    return x[0] / x[1] if x[0].is_floating_point() else torch.div(x[0], x[1], rounding_mode="trunc")


OPS = {
    "Abs": lambda x, a: x[0].abs(), "Add": lambda x, a: x[0] + x[1], "Cast": cast, "Div": div, "Dropout": dropout,
    "BatchNormalization": batch_norm, "Concat": lambda x, a: torch.cat(x, a["axis"]), "Conv": conv,
    "ConstantOfShape": lambda x, a: a.get("value", torch.zeros(1).double()).expand(ints(x[0])).clone(),
    "ConvTranspose": conv_transpose, "Equal": lambda x, a: x[0] == x[1], "Erf": lambda x, a: torch.erf(x[0]),
    "Expand": lambda x, a: x[0] * torch.ones(ints(x[1]), dtype=x[0].dtype) if x[0].dtype != torch.bool
    else x[0] & torch.ones(ints(x[1]), dtype=torch.bool),
    "Gather": gather, "Gemm": gemm, "Greater": lambda x, a: x[0] > x[1], "Identity": lambda x, a: x[0],
    "LayerNormalization": layer_norm, "LeakyRelu": lambda x, a: F.leaky_relu(x[0], a.get("alpha", 0.01)),
    "MatMul": lambda x, a: x[0] @ x[1], "MaxPool": max_pool, "Mul": lambda x, a: x[0] * x[1],
    "NonZero": lambda x, a: x[0].nonzero().T, "Not": lambda x, a: ~x[0],
    "Pow": lambda x, a: x[0] ** x[1], "ReduceL2": reduce(lambda x, d, k: torch.linalg.vector_norm(x, 2, d, k)),
    "ReduceMean": reduce(lambda x, d, k: x.mean(d, k)), "ReduceSum": reduce(lambda x, d, k: x.sum(d, k)),
    "Relu": lambda x, a: F.relu(x[0]), "Reshape": reshape, "Resize": resize,
    "Shape": lambda x, a: torch.tensor(x[0].shape, dtype=torch.long), "Slice": slice_,
    "Softmax": lambda x, a: torch.softmax(x[0], a.get("axis", -1)), "SoftmaxCrossEntropyLoss": cross_entropy,
    "Sqrt": lambda x, a: x[0].sqrt(), "Squeeze": squeeze, "Sub": lambda x, a: x[0] - x[1],
    "Tanh": lambda x, a: torch.tanh(x[0]),
    "Transpose": lambda x, a: x[0].permute(a.get("perm", list(range(x[0].dim()))[::-1])), "Unsqueeze": unsqueeze,
    "Where": lambda x, a: torch.where(x[0], x[1], x[2]),
}


def attributes(node):
    found = {}
    for a in node.attribute:
        value = onnx.helper.get_attribute_value(a)
        if a.type == onnx.AttributeProto.TENSOR:
            value = tensor(value)
        found[a.name] = value.decode() if isinstance(value, bytes) else value
    return found


def loop(node, a, x, env):
    body, count, keep, state = a["body"], int(x[0]), bool(x[1]), list(x[2:])
    for i in range(count):
        if not keep:
            break
        inner = dict(env)
        inner.update(zip((v.name for v in body.input), [torch.tensor(i), torch.as_tensor(keep), *state]))
        run(body, inner)
        keep, *state = [inner[v.name] for v in body.output]
    return state


def run(graph, env):
    for node in graph.node:
        x, a = [env[i] if i else None for i in node.input], attributes(node)
        if node.op_type == "Constant":
            y = a["value"]
        elif node.op_type == "If":
            branch = a["then_branch" if bool(x[0]) else "else_branch"]
            inner = dict(env)
            run(branch, inner)
            y = tuple(inner[v.name] for v in branch.output)
        elif node.op_type == "Loop":
            y = tuple(loop(node, a, x, env))
        else:
            y = OPS[node.op_type](x, a)
        for name, value in zip(node.output, y if isinstance(y, tuple) else (y,)):
            env[name] = value


# ---------------------------------------------------------------- goldens

class Network:
    def __init__(self, path):
        self.graph = onnx.load(MODELS + path).graph
        self.initial = {i.name: tensor(i) for i in self.graph.initializer}
        self.tasks = [o.name for o in self.graph.output if not o.type.tensor_type.shape.dim and
                      o.type.tensor_type.elem_type in (1, 11)]
        norms = [n for n in self.graph.node if n.op_type == "BatchNormalization"]
        self.running = {i: n.output[1 + k] for n in norms for k, i in enumerate(n.input[3:5])}
        self.params = [n for n, t in self.initial.items()
                       if t.is_floating_point() and t.dim() and n not in self.running]

    def losses(self, values, inputs):
        env = {**values, **inputs}
        run(self.graph, env)
        return [env[t] for t in self.tasks], env

    def gradients(self, loss, leaves, keep):
        return torch.autograd.grad(loss, leaves, retain_graph=keep, allow_unused=True)

    def leaves(self):
        return {n: t.clone().requires_grad_(n in self.params) for n, t in self.initial.items()}

    def golden(self, inputs, lr):
        out = {"input/" + k: v for k, v in inputs.items()}
        feeds = {k: torch.from_numpy(v) for k, v in inputs.items()}
        feeds = {k: v.double() if v.is_floating_point() else v for k, v in feeds.items()}
        values = self.leaves()
        losses, env = self.losses(values, feeds)
        out["losses"] = np.array([x.item() for x in losses])
        leaves = [values[p] for p in self.params]
        grads = [self.gradients(x, leaves, True) for x in losses]
        shared = [i for i in range(len(leaves)) if sum(g[i] is not None for g in grads) > 1]
        for i, name in enumerate(self.params):
            for task, g in zip(self.tasks, grads):
                if g[i] is not None:
                    out[f"grad/{task}/{name}"] = g[i].numpy()
        flat = torch.stack([torch.cat([(g[i] if g[i] is not None else torch.zeros_like(leaves[i])).reshape(-1)
                                       for i in shared]) for g in grads])
        gram = (flat @ flat.T).numpy()
        norm = np.sqrt(np.diag(gram))
        out |= {"shared_gram": gram, "shared_norm": norm, "shared_cosine": gram / np.outer(norm, norm)}
        for state, after in self.running.items():
            out["buffer_after_onnx/" + state] = env[after].detach().numpy()
        self.params = [p for i, p in enumerate(self.params) if any(g[i] is not None for g in grads)]
        for kind in ("sgd", "adam"):
            out["traj_" + kind] = self.trajectory(kind, feeds, lr)
        return out

    def trajectory(self, kind, feeds, lr):
        values = self.leaves()
        leaves = [values[p] for p in self.params]
        optimizer = torch.optim.SGD(leaves, lr) if kind == "sgd" else torch.optim.Adam(leaves, 1e-3)
        rows = []
        for _ in range(10):
            optimizer.zero_grad()
            losses, env = self.losses(values, feeds)
            sum(losses).backward()
            optimizer.step()
            rows.append([x.item() for x in losses])
            for state, after in self.running.items():
                values[state] = env[after].detach()
        return np.array(rows)


def signs(count):
    """[SIGNS, count] of +1 and -1: the low bits of a hash of the index."""
    h = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(32)
    h *= np.uint64(0xD6E8FEB86659FD93)
    h ^= h >> np.uint64(32)
    return 1.0 - 2.0 * ((h[None, :] >> np.arange(SIGNS, dtype=np.uint64)[:, None]) & np.uint64(1)).astype(np.float64)


def save(name, golden):
    out, largest = {}, {}
    for key, value in golden.items():
        if not key.startswith("grad/"):
            out[key] = value
            continue
        task = key.split("/")[1]
        largest[task] = max(largest.get(task, 0.0), float(np.abs(value).max()))
        if value.size > SIGNS:
            out["sketch/" + key[5:]] = signs(value.size) @ value.reshape(-1)
        else:
            out[key] = value
    out |= {"largest/" + t: np.float64(x) for t, x in largest.items()}
    np.savez_compressed(OUT + name + ".npz", **out)
    print(f"{name}: {os.path.getsize(OUT + name + '.npz')} bytes, losses {golden['losses']}")


def recorded(folder):
    with np.load(MODELS + folder + "/golden.npz") as f:
        return {k: f[k] for k in f}


def inputs_of(golden):
    return {k[6:]: v for k, v in golden.items() if k.startswith("input/")}


def draw(inputs, batch, seed):
    """Inputs of another batch size: entries drawn from the recorded ones."""
    rng = np.random.default_rng(seed)
    made = {k: rng.choice(v.reshape(-1), (batch,) + v.shape[1:]) for k, v in inputs.items()}
    if "attention_mask" in made:
        made["attention_mask"][:, 0] = 1
    return made


def check(network, golden, lr, what):
    found = network.golden(inputs_of(golden), lr)
    for key, value in golden.items():
        if key.startswith(("grad/", "losses", "shared", "traj", "buffer_after_onnx")):
            scale = max(np.abs(value).max(), 1e-3)
            worst = np.abs(found[key] - value).max() / scale
            assert worst < 2e-5, (what, key, worst)
    print(f"{what}: the interpreter reproduces the recorded golden")


def main():
    os.makedirs(OUT, exist_ok=True)
    for folder, files, lr in (("mlp_cls_reg", ["model.op13", "model.op17"], 0.05),
                              ("cnn_nyu", ["model.op14", "model.op17"], 0.02),
                              ("transformer_glue", ["model.op13", "model.op17"], 0.05)):
        golden = recorded(folder)
        for f in files:
            check(Network(f"{folder}/{f}.onnx"), golden, lr, f)
        for batch in (1, 5):  # a transformer at 0.05 diverges: every rounding error grows tenfold a step
            save(f"{folder}.b{batch}", Network(f"{folder}/{files[-1]}.onnx").golden(
                draw(inputs_of(golden), batch, batch), min(lr, GLUE_LR) if folder == "transformer_glue" else lr))
    cnn, glue, mlp = (inputs_of(recorded(f)) for f in ("cnn_nyu", "transformer_glue", "mlp_cls_reg"))
    short = {k: v for k, v in glue.items() if k != "token_type_ids"}
    tied = {"t": np.arange(20), "y": np.arange(20), "z": np.random.default_rng(3).normal(size=20).astype("f")}
    for batch in (1, 2, 5):
        save(f"eval_bn.b{batch}", Network("cnn_nyu/eval_bn.onnx").golden(draw(cnn, batch, batch), 0.02))
    # Other sizes than the export saw: 32 x 40.
    wide = {k: np.concatenate([np.concatenate([v, v[:, ..., :8, :]], -2)] * 2, -1)[..., :40] for k, v in cnn.items()}
    save("cnn_nyu.32x40", Network("cnn_nyu/preserve_dyn_hw.onnx").golden(wide, 0.02))
    for batch in (1, 4, 5):
        save(f"torch_encoder_layer.b{batch}",
             Network("transformer_glue/torch_encoder_layer.onnx").golden(draw(short, batch, batch), GLUE_LR))
        save(f"dropout_p01.b{batch}", Network("transformer_glue/dropout_p01.onnx").golden(draw(glue, batch, batch), GLUE_LR))
        save(f"dynamo_like.b{batch}", Network("fixtures/dynamo_like.onnx").golden(draw(glue, batch, batch), GLUE_LR))
        save(f"tied.b{batch}", Network("fixtures/tied.onnx").golden(draw(tied, batch, batch), 0.05))
    double = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in mlp.items()}
    save("double", Network("fixtures/double.onnx").golden(double, 0.05))
    rng = np.random.default_rng(11)
    for kind, shift in (("then", 0.5), ("else", -4.0)):
        flow = {"x": (rng.normal(size=(3, 4)) + shift).astype("f"), "z": rng.normal(size=3).astype("f")}
        save(f"control_flow.{kind}", Network("fixtures/control_flow.onnx").golden(flow, 0.001))


main()
