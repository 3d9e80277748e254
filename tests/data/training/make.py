"""Makes the models of this folder with onnx.helper, as another tool would, and what PyTorch computes for them.

    python make.py        (onnx, numpy and torch installed)

NAME.onnx and NAME.npz: input/I, the graph's inputs; and output/O, what one run gives. For models with training_info, trained on the same
inputs for 5 steps: loss [5], and state/S, the states behind the last step.
"""
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, checker, helper, numpy_helper, save

HERE, STEPS, PREVIEW = Path(__file__).parent, 5, "ai.onnx.preview.training"
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid(PREVIEW, 1)]
rng = np.random.default_rng(5)


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def training_node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, domain=PREVIEW, **attributes)


def gradient(xs, y, outputs, zs=(), inputs=None):
    more = {"zs": list(zs)} if zs else {}
    return training_node("Gradient", inputs or [*xs, *zs], outputs, xs=list(xs), y=y, **more)


def initializer(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def write(name, graph, arrays, functions=(), training=()):
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=8, functions=list(functions), producer_name="make.py")
    model.training_info.extend(training)
    checker.check_model(model)
    save(model, HERE / f"{name}.onnx")
    np.savez(HERE / f"{name}.npz", **{k: np.asarray(v) for k, v in arrays.items()})


# ---------------------------------------------------------------- Gradient nodes, one run

def plain(name, nodes, feeds, outputs, expected, functions=()):
    """expected: torch tensors, in the order of the graph's outputs."""
    graph = helper.make_graph(nodes, name, [info(k, v.shape) for k, v in feeds.items()],
                              [info(o, e.shape) for o, e in zip(outputs, expected)])
    arrays = {f"input/{k}": v for k, v in feeds.items()}
    arrays |= {f"output/{o}": e.detach().numpy() for o, e in zip(outputs, expected)}
    write(name, graph, arrays, functions)


def leaves(*arrays):
    return [torch.tensor(a, requires_grad=True) for a in arrays]


def grad(y, xs, again=False):
    return torch.autograd.grad(y.sum(), xs, create_graph=again, retain_graph=True)


x, w = normal(2, 3), normal(3, 2)
tx, tw = leaves(x, w)
square_of_tanh = [node("MatMul", ["x", "w"], ["h"]), node("Tanh", ["h"], ["t"]), node("Mul", ["t", "t"], ["s"])]
y = torch.tanh(tx @ tw) ** 2
(dw,) = grad(y, [tw], True)
plain("second_order",
      square_of_tanh + [node("ReduceSum", ["s"], ["o"], keepdims=0), gradient(["w"], "o", ["dw"], ["x"]),
                        gradient(["w", "x"], "dw", ["ddw", "dwdx"])],
      {"x": x, "w": w}, ["dw", "ddw", "dwdx"], [dw, *grad(dw, [tw, tx])])
plain("tensor_y", square_of_tanh + [gradient(["x", "w"], "s", ["dx", "dw"])], {"x": x, "w": w}, ["dx", "dw"],
      grad(y, [tx, tw]))

p = normal(4)
(tp,) = leaves(p)
y = tp * tp * tp * tp
d1 = grad(y, [tp], True)[0]
d2 = grad(d1, [tp], True)[0]
plain("third_order",
      [node("Mul", ["p", "p"], ["q"]), node("Mul", ["q", "q"], ["y"]), gradient(["p"], "y", ["d1"]),
       gradient(["p"], "d1", ["d2"]), gradient(["p"], "d2", ["d3"])],
      {"p": p}, ["d1", "d2", "d3"], [d1, d2, grad(d2, [tp])[0]])

image, kernel = normal(2, 3, 6, 5), normal(4, 3, 3, 3)
ti, tk = leaves(image, kernel)
y = torch.sigmoid(torch.nn.functional.conv2d(ti, tk, padding=1))
di = grad(y, [ti], True)[0]
plain("gradient_penalty",
      [node("Conv", ["image", "kernel"], ["c"], pads=[1, 1, 1, 1]), node("Sigmoid", ["c"], ["y"]),
       gradient(["image"], "y", ["di"], ["kernel"]), node("Mul", ["di", "di"], ["di2"]),
       node("ReduceSum", ["di2"], ["penalty"], keepdims=0), gradient(["kernel"], "penalty", ["dk"], ["image"])],
      {"image": image, "kernel": kernel}, ["penalty", "dk"], [(di * di).sum(), grad(di * di, [tk])[0]])

a, b, c, d = (normal(3) for _ in range(4))
ta, tb, tc, td = leaves(a, b, c, d)
sine = [node("Mul", ["a", "b"], ["ab"]), node("Sin", ["ab"], ["y"])]
plain("other_values", sine + [gradient(["a", "b"], "y", ["da", "db"], inputs=["c", "d"])],
      {"a": a, "b": b, "c": c, "d": d}, ["y", "da", "db"], [torch.sin(ta * tb), *grad(torch.sin(tc * td), [tc, td])])
plain("one_value_twice", sine + [gradient(["a", "b"], "y", ["da", "db"], inputs=["c", "c"])],
      {"a": a, "b": b, "c": c}, ["da", "db"], [torch.cos(tc * tc) * tc, torch.cos(tc * tc) * tc])
plain("other_values_between", sine + [node("Exp", ["y"], ["z"]), gradient(["y"], "z", ["dy"], inputs=["c"])],
      {"a": a, "b": b, "c": c}, ["z", "dy"], [torch.exp(torch.sin(ta * tb)), torch.exp(tc)])
plain("between", sine + [node("Mul", ["y", "c"], ["z"]), gradient(["ab", "c"], "z", ["dab", "dc"])],
      {"a": a, "b": b, "c": c}, ["dab", "dc"], [torch.cos(ta * tb) * tc, torch.sin(ta * tb)])
# z depends on x: as a z it counts as a value of its own
plain("dependent_z", [node("Mul", ["a", "a"], ["q"]), node("Mul", ["q", "a"], ["y"]), gradient(["a"], "y", ["da"], ["q"])],
      {"a": a}, ["da"], [ta * ta])
plain("left_out", sine + [gradient(["a", "b"], "y", ["", "db"])], {"a": a, "b": b}, ["db"],
      [torch.cos(ta * tb) * ta])
plain("independent", sine + [gradient(["a", "c"], "y", ["da", "dc"])], {"a": a, "b": b, "c": c}, ["da", "dc"],
      [torch.cos(ta * tb) * tb, 0 * tc])
slope = helper.make_function("test", "Slope", ["a", "b"], ["da"], sine + [gradient(["a"], "y", ["da"], ["b"])], OPSETS)
OPSETS.append(helper.make_opsetid("test", 1))
plain("in_function", [helper.make_node("Slope", ["a", "b"], ["s"], domain="test")], {"a": a, "b": b}, ["s"],
      [torch.cos(ta * tb) * tb], [slope])
OPSETS.pop()

# ---------------------------------------------------------------- training_info

x, target = normal(8, 3), normal(8, 2)
start = {"W1": normal(3, 4), "b1": normal(4), "W2": normal(4, 2)}
network = [node("Gemm", ["x", "W1", "b1"], ["h"]), node("Tanh", ["h"], ["t"]), node("MatMul", ["t", "W2"], ["y"])]
loss_nodes = [node("Sub", ["y", "target"], ["e"]), node("Mul", ["e", "e"], ["e2"]), node("ReduceMean", ["e2"], ["loss"], keepdims=0)]


def main_graph():
    return helper.make_graph(network, "network", [info("x", ["n", 3])], [info("y", ["n", 2])],
                             [initializer(k, v) for k, v in start.items()])


def loss_of(w):
    out = torch.tanh(torch.tensor(x) @ w["W1"] + w["b1"]) @ w["W2"]
    return ((out - torch.tensor(target)) ** 2).mean()


def gradients(w, names):
    w = {k: v.detach().requires_grad_() for k, v in w.items()}
    loss = loss_of(w)
    return float(loss.detach()), dict(zip(names, torch.autograd.grad(loss, [w[k] for k in names])))


def step_graph(names, update, outputs, initializers, loss="loss"):
    nodes = loss_nodes + [gradient(names, loss, [f"d_{k}" for k in names], ["x", "target"])] + update
    return helper.make_graph(nodes, "step", [info("target", ["n", 2])],
                             [info(loss, [])] + [info(o, None, kind) for o, kind in outputs], initializers)


def trained(name, trainings, steps, extra_inputs=()):
    """steps: what a step does to the states, in torch; it returns the loss."""
    states, losses = {k: torch.tensor(v) for k, v in start.items()}, []
    for _ in range(STEPS):
        losses.append(steps(states))
    arrays = {"input/x": x, "input/target": target, "loss": np.asarray(losses, np.float32)}
    arrays |= {f"state/{k}": v.detach().numpy() for k, v in states.items()}
    write(name, main_graph(), arrays, training=trainings)


NAMES, F, I = list(start), TensorProto.FLOAT, TensorProto.INT64
count = [node("Add", ["T", "one"], ["T_next"])]
counter = [initializer("T", np.int64(0)), initializer("one", np.int64(1))]
zeros = {k: np.zeros_like(v) for k, v in start.items()}


def sgd(names, loss="loss"):
    return [n for k in names for n in (node("Mul", ["lr", f"d_{k}"], [f"l_{k}"]), node("Sub", [k, f"l_{k}"], [f"{k}_next"]))]


def sgd_step(w, names, lr):
    loss, d = gradients(w, names)
    for k in names:
        w[k] = w[k] - lr * d[k]
    return loss


trained("sgd", [helper.make_training_info(
    step_graph(NAMES, sgd(NAMES), [(f"{k}_next", F) for k in NAMES], [initializer("lr", np.float32(0.1))]),
    [(k, f"{k}_next") for k in NAMES], None, None)], lambda w: sgd_step(w, NAMES, 0.1))

# one step for W1 and b1, then one for W2 that sees them updated: both name their values alike
trained("two_steps", [helper.make_training_info(
    step_graph(names, sgd(names), [(f"{k}_next", F) for k in names], [initializer("lr", np.float32(lr))]),
    [(k, f"{k}_next") for k in names], None, None) for names, lr in ((["W1", "b1"], 0.1), (["W2"], 0.3))],
    lambda w: [sgd_step(w, ["W1", "b1"], 0.1), sgd_step(w, ["W2"], 0.3)][0])


def optimizer(name, op, groups, rate, update, **attributes):
    """One node for all three tensors; update: torch, of one tensor and its states."""
    states = [f"{g}_{k}" for g in groups for k in NAMES]
    all_states = {f"{g}_{k}": torch.zeros_like(torch.tensor(start[k])) for g in groups for k in NAMES}
    nodes = [training_node(op, ["R", "T", *NAMES, *[f"d_{k}" for k in NAMES], *states],
                           [f"{k}_next" for k in NAMES + states], **attributes)] + count
    graph = step_graph(NAMES, nodes, [(f"{k}_next", F) for k in NAMES + states] + [("T_next", I)],
                       [initializer("R", np.float32(rate))] + counter + [initializer(f"{g}_{k}", zeros[k]) for g in groups for k in NAMES])
    init = helper.make_graph(
        [node("Constant", [], ["T_first"], value=initializer("", np.int64(0)))] +
        [node("ConstantOfShape", [f"shape_{k}"], [f"{k}_first"]) for k in states], "start", [],
        [info("T_first", [], I)] + [info(f"{k}_first", None) for k in states],
        [initializer(f"shape_{g}_{k}", np.asarray(start[k].shape, np.int64)) for g in groups for k in NAMES])

    def one(w):
        w |= {k: v for k, v in all_states.items() if k not in w}
        t = int(w.get("T", torch.tensor(0)))
        loss, d = gradients({k: w[k] for k in NAMES}, NAMES)
        for k in NAMES:
            new = update(w[k], d[k], rate, t, *[w[f"{g}_{k}"] for g in groups])
            for key, value in zip([k, *[f"{g}_{k}" for g in groups]], new):
                w[key] = value
        w["T"] = torch.tensor(t + 1)
        return loss

    trained(name, [helper.make_training_info(
        graph, [(k, f"{k}_next") for k in NAMES + states + ["T"]], init, [(k, f"{k}_first") for k in states + ["T"]])], one)


def adam(x, g, r, t, v, h, a=0.8, b=0.95, n=0.02, post=0.001, e=1e-3):
    g = g + n * x
    v, h = a * v + (1 - a) * g, b * h + (1 - b) * g * g
    r = r * np.sqrt(1 - b**t) / (1 - a**t) if t > 0 else r
    return (1 - post) * (x - r * v / (h.sqrt() + e)), v, h


def adagrad(x, g, r, t, h, n=0.05, decay=0.1, e=1e-3):
    g = g + n * x
    h = h + g * g
    return x - r / (1 + t * decay) * g / (h.sqrt() + e), h


def momentum(nesterov):
    def update(x, g, r, t, v, a=0.9, b=0.7, n=0.01):
        g = g + n * x
        v = a * v + (b if t > 0 else 1) * g
        return x - r * (g + a * v if nesterov else v), v
    return update


optimizer("adam", "Adam", ["V", "H"], 0.05, adam, alpha=0.8, beta=0.95, norm_coefficient=0.02,
          norm_coefficient_post=0.001, epsilon=1e-3)
optimizer("adagrad", "Adagrad", ["H"], 0.2, adagrad, norm_coefficient=0.05, decay_factor=0.1, epsilon=1e-3)
for mode in ("standard", "nesterov"):
    optimizer(f"momentum_{mode}", "Momentum", ["V"], 0.05, momentum(mode == "nesterov"), alpha=0.9, beta=0.7,
              norm_coefficient=0.01, mode=mode)
