"""How the problems in this folder were made: five multi-task problems, each an exported graph with its losses inside
(NAME.onnx), data to train on (NAME.train.npz), to choose on (NAME.valid.npz) and to judge on (NAME.test.npz).

Needs torch, onnx and numpy, and digits.npz beside it. Nothing else in the repository needs this script.
  python make_models.py [folder]
"""
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE


def trunk(*sizes):
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers)


def cross_entropy(logits, label):
    return F.cross_entropy(logits, label)


def sum_of_squares(prediction, target):
    return ((prediction - target) ** 2).sum(1).mean()


def mean_square(prediction, target):
    return ((prediction - target) ** 2).mean()


def bce(logits, target):
    """The stable form, which exports to finite gradients at any logit."""
    return (torch.relu(logits) - logits * target + torch.log1p(torch.exp(-logits.abs()))).mean()


class Problem(nn.Module):
    """A trunk and one linear head a task. forward(x, targets...) -> losses..., predictions..."""

    def __init__(self, sizes, heads):
        super().__init__()
        self.trunk = trunk(*sizes)
        self.heads = nn.ModuleDict({name: nn.Linear(sizes[-1], width) for name, width, _ in heads})
        self.losses = {name: loss for name, _, loss in heads}

    def forward(self, x, *targets):
        z = self.trunk(x)
        predictions = [head(z) for head in self.heads.values()]
        losses = [loss(p, t) for loss, p, t in zip(self.losses.values(), predictions, targets)]
        return (*losses, *predictions)


def export(name, net, splits):
    net.train()
    train = splits["train"]
    tasks = list(net.losses)
    inputs = list(train)
    sample = tuple(torch.from_numpy(train[k][:4]) for k in inputs)
    outputs = [f"loss_{t}" for t in tasks] + [f"pred_{t}" for t in tasks]
    axes = {k: {0: "batch"} for k in inputs + [f"pred_{t}" for t in tasks]}
    torch.onnx.export(net, sample, str(OUT / f"{name}.onnx"), input_names=inputs, output_names=outputs,
                      dynamic_axes=axes, opset_version=17, dynamo=False,
                      training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False)
    for split, arrays in splits.items():
        np.savez_compressed(OUT / f"{name}.{split}.npz", **arrays)


def split(arrays, *counts):
    """Consecutive parts of already shuffled arrays."""
    parts, first = {}, 0
    for name, count in zip(("train", "valid", "test"), counts):
        parts[name] = {k: np.ascontiguousarray(v[first:first + count]) for k, v in arrays.items()}
        first += count
    return parts


def digits(rng):
    data = np.load(HERE / "digits.npz")
    order = rng.permutation(len(data["labels"]))
    return data["images"].reshape(-1, 64).astype(np.float32)[order], data["labels"].astype(np.int64)[order]


def toyscale(rng, scales=(1.0, 100.0), d=40, width=10):
    """B1: two regressions on one random mechanism whose targets differ by 100 in scale (GradNorm's toy, posed anew; the
    test targets are without the noise)."""
    shared = rng.normal(0, np.sqrt(10.0), (d, width))
    x = rng.normal(0, 1, (6000, d)).astype(np.float32)
    arrays = {"x": x}
    for i, s in enumerate(scales):
        own = rng.normal(0, np.sqrt(20.0), (d, width))
        clean = np.tanh(x @ (shared + own) / np.sqrt(30.0 * d))
        noise = 0.1 * rng.normal(0, 1, clean.shape)
        noise[5000:] = 0
        arrays[f"y{i}"] = (s * (clean + noise)).astype(np.float32)
    net = Problem((d, 64, 64, 64), [("small", width, mean_square), ("large", width, mean_square)])
    return net, split(arrays, 4000, 1000, 1000)


def digits2(rng):
    """B2: which digit (cross-entropy), and the picture without its noise (sum of squares in raw units of 0..16)."""
    images, labels = digits(rng)
    noisy = (images + rng.normal(0, 4, images.shape)).astype(np.float32)
    net = Problem((64, 64, 64, 12), [("digit", 10, cross_entropy), ("clean", 64, sum_of_squares)])
    return net, split({"x": noisy, "label": labels, "picture": images}, 1000, 300, 497)


def multidigits(rng):
    """B3: two digits laid over each other, which are they? Two equal tasks: nothing needs fixing."""
    images, labels = digits(rng)
    n = len(labels)
    parts = {}
    for name, first, last in (("train", 0, 1000), ("valid", 1000, 1300), ("test", 1300, n)):
        count = {"train": 4000, "valid": 600, "test": 1000}[name]
        a, b = rng.integers(first, last, count), rng.integers(first, last, count)
        canvas = np.zeros((count, 10, 12), np.float32)
        canvas[:, :8, :8] = images[a].reshape(-1, 8, 8)
        canvas[:, 2:, 4:] = np.maximum(canvas[:, 2:, 4:], images[b].reshape(-1, 8, 8))
        parts[name] = {"x": canvas.reshape(count, 120) / 16, "left": labels[a], "right": labels[b]}
    net = Problem((120, 64, 64, 32), [("left", 10, cross_entropy), ("right", 10, cross_entropy)])
    return net, parts


def interpnoise(rng):
    """B4: a task that a network can learn by heart (which digit), beside a regression whose training targets are mostly noise
    (variance 4 times the signal's; the test targets are clean). Inputs are standardised: the network is
    quick enough then to learn the noise in the steps that it has."""
    images, labels = digits(rng)
    x = images / 16
    signal = np.tanh(x @ rng.normal(0, 1, (64, 4)) / 2)
    signal = (signal - signal.mean(0)) / signal.std(0)
    noisy = signal + 2 * rng.normal(0, 1, signal.shape)
    noisy[1300:] = signal[1300:]
    x = (x - x[:1000].mean(0)) / (x[:1000].std(0) + 0.05)
    net = Problem((64, 64, 64, 32), [("digit", 10, cross_entropy), ("noisy", 4, mean_square)])
    return net, split({"x": x.astype(np.float32), "label": labels, "target": noisy.astype(np.float32)},
                      1000, 300, 497)


def digits5(rng):
    """B5: five tasks on one picture: which digit, odd or even, how much ink, the picture without noise, which digit when 40 of
    100 training labels are wrong."""
    images, labels = digits(rng)
    noisy = (images + rng.normal(0, 4, images.shape)).astype(np.float32)
    wrong = np.where(rng.random(len(labels)) < 0.4, rng.integers(0, 10, len(labels)), labels)
    wrong[1300:] = labels[1300:]
    arrays = {"x": noisy, "label": labels, "odd": (labels % 2).astype(np.float32)[:, None],
              "ink": images.sum(1, keepdims=True), "picture": images, "rumour": wrong.astype(np.int64)}
    net = Problem((64, 64, 64, 32), [("digit", 10, cross_entropy), ("odd", 1, bce), ("ink", 1, mean_square),
                                     ("clean", 64, sum_of_squares), ("rumour", 10, cross_entropy)])
    return net, split(arrays, 1000, 300, 497)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for number, make in enumerate((toyscale, digits2, multidigits, interpnoise, digits5), 1):
        torch.manual_seed(number)
        net, parts = make(np.random.default_rng(number))
        export(make.__name__, net, parts)
        print(make.__name__, {k: v.shape for k, v in parts["train"].items()})
