"""Makes rnn_tag/, rnn_steps/, mmoe/ and masked/: *.onnx with their golden.npz (PyTorch; not needed by the tests themselves).

make_recurrent.py OUT_FOLDER [NAME ...]: small multi-task networks with GRU, LSTM and RNN layers, a mixture of experts, and losses
over what masks select, exported by torch.onnx (TorchScript exporter, training mode), with losses, per-task gradients, norms, Gram matrix, cosines and ten-step
trajectories computed by torch.autograd in double precision.
"""
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

warnings.filterwarnings("ignore")
OUT, CHOSEN = Path(sys.argv[1]), sys.argv[2:]
SGD_RATE, ADAM_RATE, STEPS = 0.05, 1e-3, 10


class RnnTag(nn.Module):
    """Tags of words, and what the sentence is about: embedding, bidirectional GRU, two LSTM layers."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 8)
        self.gru = nn.GRU(8, 6, bidirectional=True, batch_first=True)
        self.lstm = nn.LSTM(12, 7, num_layers=2, batch_first=True)
        self.tag, self.length, self.topic = nn.Linear(7, 4), nn.Linear(7, 1), nn.Linear(14, 3)

    def forward(self, words, tags, topic, length):
        y, _ = self.gru(self.emb(words))
        y, (h, c) = self.lstm(y)
        tag = F.cross_entropy(self.tag(y).transpose(1, 2), tags, ignore_index=-1)
        d = torch.abs(self.length(c[-1]).squeeze(-1) - length)
        return (tag, F.cross_entropy(self.topic(torch.cat([h[-1], c[0]], -1)), topic),
                torch.where(d < 1, 0.5 * d * d, d - 0.5).mean())

    names, outputs = ["words", "tags", "topic", "length"], ["loss_tag", "loss_topic", "loss_length"]
    axes = {"words": {0: "batch", 1: "seq"}, "tags": {0: "batch", 1: "seq"}, "topic": {0: "batch"}, "length": {0: "batch"}}

    def data(self, rng):
        tags = rng.integers(0, 4, (4, 6))
        tags[rng.random((4, 6)) < 0.2] = -1
        return [rng.integers(0, 20, (4, 6)), tags, rng.integers(0, 3, 4), 3 * rng.random(4)]


class Steps(nn.Module):
    """Plain RNNs (tanh both ways, relu), a GRU and an LSTM that start from given states; time first."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 5, 3, padding=1)
        self.a = nn.RNN(5, 4, bidirectional=True)
        self.b = nn.RNN(8, 4, nonlinearity="relu", bias=False)
        self.gru, self.lstm = nn.GRU(4, 4), nn.LSTM(4, 5)
        self.query = nn.Parameter(torch.randn(5))
        self.one, self.two = nn.Linear(5, 2), nn.Linear(4, 2)

    def forward(self, x, start, cell, one, two):
        y = F.relu(self.conv(x)).permute(2, 0, 1)
        y, _ = self.a(y)
        y, _ = self.b(y)
        g, last = self.gru(y, start)
        y, _ = self.lstm(g, (cell, cell * 0.5))
        at = torch.softmax(y @ self.query, 0).unsqueeze(-1)
        return ((self.one((y * at).sum(0)) - one) ** 2).mean(), ((self.two(last[0]) - two) ** 2).mean()

    names, outputs = ["x", "start", "cell", "one", "two"], ["loss_one", "loss_two"]
    axes = {"x": {0: "batch", 2: "seq"}, "start": {1: "batch"}, "cell": {1: "batch"}, "one": {0: "batch"}, "two": {0: "batch"}}

    def data(self, rng):
        return [rng.normal(size=s) for s in [(3, 3, 7), (1, 3, 4), (1, 3, 5), (3, 2), (3, 2)]]


class Mmoe(nn.Module):
    """Multi-gate mixture of experts on categories and numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(10, 4), nn.Embedding(7, 3)
        self.experts = nn.Parameter(torch.randn(4, 12, 8) * 0.3)
        self.bias = nn.Parameter(torch.zeros(4, 8))
        self.prelu = nn.PReLU(8)
        self.gates = nn.ModuleList([nn.Linear(12, 4) for _ in range(3)])
        self.towers = nn.ModuleList([nn.Sequential(nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 1)) for _ in range(3)])

    def forward(self, cat, num, click, buy, spend):
        x = torch.cat([self.a(cat[:, 0]), self.b(cat[:, 1]), num], -1)
        e = torch.einsum("bi,eio->beo", x, self.experts) + self.bias
        e = self.prelu(e.transpose(1, 2)).transpose(1, 2)
        out = []
        for gate, tower in zip(self.gates, self.towers):
            w = torch.softmax(gate(x), -1).unsqueeze(1)
            out.append(tower(torch.bmm(w, e).squeeze(1)).squeeze(-1))
        return (F.binary_cross_entropy_with_logits(out[0], click), F.binary_cross_entropy_with_logits(out[1], buy),
                ((out[2] - spend) ** 2).mean())

    names, outputs = ["cat", "num", "click", "buy", "spend"], ["loss_click", "loss_buy", "loss_spend"]
    axes = {n: {0: "batch"} for n in names}

    def data(self, rng):
        return [np.stack([rng.integers(0, 10, 9), rng.integers(0, 7, 9)], 1), rng.normal(size=(9, 5)),
                rng.integers(0, 2, 9).astype(float), rng.integers(0, 2, 9).astype(float), 20 * rng.random(9)]


class Masked(nn.Module):
    """a[mask]: single elements and rows, by masks of labels, data and activations; a layer over selected rows; an index."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Linear(6, 8), nn.Linear(8, 5)
        self.depth, self.kind, self.tag = nn.Linear(8, 1), nn.Linear(5, 4), nn.Linear(8, 3)

    def forward(self, x, depth, kind, tag):
        h = torch.tanh(self.f(x))
        d = self.depth(h)[..., 0]
        known = kind != -1
        rows = self.kind(torch.relu(self.g(h[known])))
        at, = torch.where(tag > 0)
        off = (d - depth).abs()
        return (off[depth > 0].mean() + torch.log(d[d > 0] + 0.1).sum() / 9, F.cross_entropy(rows, kind[known]),
                F.cross_entropy(self.tag(h[:, 0])[at], tag[at]) + (self.tag(h)[depth > 0] ** 2).sum(-1).max())

    names, outputs = ["x", "depth", "kind", "tag"], ["loss_depth", "loss_kind", "loss_tag"]
    axes = {n: {0: "batch"} for n in names}

    def data(self, rng):
        return [rng.normal(size=(5, 3, 6)), rng.normal(size=(5, 3)), rng.integers(-1, 4, (5, 3)), rng.integers(0, 3, 5)]


def tensors(arrays, kind):
    return [torch.tensor(a) if a.dtype == np.int64 else torch.tensor(a, dtype=kind) for a in arrays]


def trajectory(net, data, optimizer):
    start = {k: v.clone() for k, v in net.state_dict().items()}
    losses, opt = [], optimizer(net.parameters())
    for _ in range(STEPS):
        loss = net(*data)
        losses.append([float(v) for v in loss])
        opt.zero_grad()
        sum(loss).backward()
        opt.step()
    net.load_state_dict(start)
    return np.array(losses)


def golden(net, arrays, names):
    """names: initializer -> parameter, as the exported file has them."""
    net = net.double()
    data = tensors(arrays, torch.float64)
    params = dict(net.named_parameters())
    loss = net(*data)
    grads = [dict(zip(params, torch.autograd.grad(v, list(params.values()), retain_graph=True, allow_unused=True))) for v in loss]
    reach = {p: sum(g[p] is not None for g in grads) for p in params}
    shared = [p for p in params if reach[p] > 1]
    flat = torch.stack([torch.cat([(g[p] if g[p] is not None else torch.zeros_like(params[p])).flatten() for p in shared]) for g in grads])
    gram = (flat @ flat.T).numpy()
    norm = np.sqrt(np.diag(gram))
    out = {f"input/{n}": a if a.dtype == np.int64 else a.astype(np.float32) for n, a in zip(net.names, arrays)}
    out["losses"] = np.array([float(v) for v in loss])
    for task, g in zip(net.outputs, grads):
        out.update({f"grad/{task}/{p}": v.numpy().astype(np.float32) for p, v in g.items() if v is not None})
    out.update(shared_norm=norm, shared_gram=gram, shared_cosine=gram / np.outer(norm, norm))
    out["traj_sgd"] = trajectory(net, data, lambda p: torch.optim.SGD(p, lr=SGD_RATE))
    out["traj_adam"] = trajectory(net, data, lambda p: torch.optim.Adam(p, lr=ADAM_RATE))
    return out


def export(net, arrays, path, opset):
    file = io.BytesIO()
    torch.onnx.export(net, tuple(tensors(arrays, torch.float32)), file, dynamo=False, opset_version=opset, training=torch.onnx.TrainingMode.TRAINING,
                      do_constant_folding=False, input_names=net.names, output_names=net.outputs, dynamic_axes=net.axes)
    model = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


for folder, make, opsets in [("rnn_tag", RnnTag, (13, 17)), ("rnn_steps", Steps, (17,)), ("mmoe", Mmoe, (13, 17)),
                              ("masked", Masked, (17,))]:
    if CHOSEN and folder not in CHOSEN:
        continue
    torch.manual_seed(5)
    net, arrays = make(), make().data(np.random.default_rng(11))
    torch.manual_seed(5)
    net = make()
    for opset in opsets:
        export(net, arrays, OUT / folder / f"model.op{opset}.onnx", opset)
    np.savez_compressed(OUT / folder / "golden.npz", **golden(net, arrays, None))
    print(folder, "written")
