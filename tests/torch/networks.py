"""Whole multi-task networks from PyTorch's two exporters, against PyTorch: losses, every task's gradient of every parameter,
ten steps; the rewritten file in stock ONNX Runtime, with functions and without. What an exporter cannot write is skipped.

networks.py BIN [NAME ...]
"""
import io
import json
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn
from torch.nn import functional as F

warnings.filterwarnings("ignore")
BIN, CHOSEN = Path(sys.argv[1]), sys.argv[2:]
EXPORTS = [("script", 11), ("script", 13), ("script", 17), ("dynamo", 18), ("dynamo", 20), ("dynamo-optimized", 18)]
RATE, STEPS = 0.01, 10
torch.set_num_threads(1)


def floats(*shape):
    return torch.randn(*shape)


def classes(n, *shape):
    return torch.randint(0, n, shape)


def smooth_l1(a, b):  # what the older exporter lacks, written out
    d = (a - b).abs()
    return torch.where(d < 1, 0.5 * d * d, d - 0.5).mean()


def l1(a, b):
    return (a - b).abs().mean()


def mse(a, b):
    return ((a - b) ** 2).mean()


def poisson(a, b):
    return (torch.exp(a) - b * a).mean()


# ------------------------------------------------------------------ networks: forward gives one loss per task

class Block(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.a, self.b = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(o), nn.BatchNorm2d(o)
        self.skip = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride > 1 or i != o else nn.Identity()

    def forward(self, x):
        return F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.body = nn.Sequential(Block(8, 8), Block(8, 12, 2))
        self.kind, self.where = nn.Linear(12, 5), nn.Linear(12, 4)

    def forward(self, image, kind, box):
        y = F.adaptive_avg_pool2d(self.body(self.stem(image)), 1).flatten(1)
        return F.cross_entropy(self.kind(y), kind), smooth_l1(self.where(y), box)

    data = lambda self: (floats(4, 3, 24, 24), classes(5, 4), floats(4, 4))


class Mobile(nn.Module):
    """Depthwise convolutions, squeeze and excitation, hard-swish."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.wide, self.deep, self.narrow = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 5, 2, 2, groups=16), nn.Conv2d(16, 10, 1)
        self.n1, self.n2 = nn.BatchNorm2d(16), nn.BatchNorm2d(10)
        self.s1, self.s2 = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.age, self.smile = nn.Linear(10, 1), nn.Linear(10, 1)

    def forward(self, image, age, smile):
        y = F.hardswish(self.stem(image))
        y = F.hardswish(self.n1(self.deep(F.relu6(self.wide(y)))))
        y = y * F.hardsigmoid(self.s2(F.relu(self.s1(F.adaptive_avg_pool2d(y, 1)))))
        y = self.n2(self.narrow(y)).mean((2, 3))
        return l1(self.age(y)[:, 0], age), F.binary_cross_entropy_with_logits(self.smile(y)[:, 0], smile)

    data = lambda self: (floats(4, 3, 16, 16), floats(4), classes(2, 4).float())


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.d1, self.d2, self.d3 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.u2, self.u1 = nn.Conv2d(16, 6, 3, padding=1), nn.Conv2d(12, 6, 3, padding=1)
        self.n = nn.InstanceNorm2d(6, affine=True)
        self.mask, self.depth = nn.Conv2d(6, 3, 1), nn.Conv2d(6, 1, 1)

    def forward(self, image, mask, depth):
        a = F.leaky_relu(self.d1(image), 0.1)
        b = F.elu(self.d2(F.max_pool2d(a, 2)))
        c = F.silu(self.d3(F.avg_pool2d(b, 2)))
        y = F.relu(self.u2(torch.cat([self.up(c), b], 1)))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        y = F.relu(self.n(self.u1(torch.cat([y, a], 1))))
        p = torch.softmax(self.mask(y), 1)
        one = F.one_hot(mask, 3).permute(0, 3, 1, 2).float()
        dice = 1 - (2 * (p * one).sum((2, 3)) + 1) / ((p + one).sum((2, 3)) + 1)
        return F.cross_entropy(self.mask(y), mask), dice.mean(), (self.depth(y) - depth).abs().mean()

    data = lambda self: (floats(2, 1, 12, 16), classes(3, 2, 12, 16), floats(2, 1, 12, 16))


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
        self.place = nn.Parameter(torch.randn(1, 10, 16) * 0.02)
        self.n1, self.n2, self.n3 = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.f1, self.f2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.kind, self.count = nn.Linear(16, 6), nn.Linear(16, 1)

    def forward(self, image, kind, count):
        y = self.patch(image).flatten(2).transpose(1, 2)
        y = torch.cat([self.cls.expand(y.shape[0], -1, -1), y], 1) + self.place
        h = self.n1(y)
        y = y + self.attention(h, h, h, need_weights=False)[0]
        y = y + self.f2(F.gelu(self.f1(self.n2(y))))
        y = self.n3(y)
        return F.cross_entropy(self.kind(y[:, 0]), kind), F.mse_loss(self.count(F.gelu(y.mean(1), approximate="tanh"))[:, 0], count)

    data = lambda self: (floats(3, 3, 12, 12), classes(6, 3), floats(3))


class Decoder(nn.Module):
    """Causal attention, tied embedding."""

    def __init__(self):
        super().__init__()
        self.emb, self.pos = nn.Embedding(19, 16), nn.Embedding(12, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.n1, self.n2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.value = nn.Linear(16, 1)

    def forward(self, words, after, value):
        n, t = words.shape
        y = self.emb(words) + self.pos(torch.arange(t))
        q, k, v = self.qkv(self.n1(y)).reshape(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mask = torch.triu(torch.full((t, t), float("-inf")), 1)
        a = torch.softmax(q @ k.transpose(-1, -2) / 8 ** 0.5 + mask, -1) @ v
        y = self.n2(y + self.out(a.transpose(1, 2).reshape(n, t, 16)))
        logits = y @ self.emb.weight.T
        return F.cross_entropy(logits.reshape(-1, 19), after.reshape(-1)), smooth_l1(self.value(y)[..., 0], value)

    data = lambda self: (classes(19, 3, 7), classes(19, 3, 7), floats(3, 7))


class Yolo(nn.Module):
    """Boxes, objects and classes, with masks, IoU and weighted losses."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.na = nn.GroupNorm(2, 8)
        self.head = nn.Conv2d(8, 5 + 4, 1)
        self.register_buffer("weight", torch.tensor(3.0))  # a scalar: not trained

    def forward(self, image, box, there, kind):
        y = self.head(F.mish(self.na(self.b(F.silu(self.a(image))))))
        y = y.permute(0, 2, 3, 1)
        p, o, k = y[..., :4], y[..., 4], y[..., 5:]
        xy, wh = torch.sigmoid(p[..., :2]) * 2 - 0.5, (torch.sigmoid(p[..., 2:]) * 2) ** 2
        low, high = torch.max(xy - wh / 2, box[..., :2] - box[..., 2:] / 2), torch.min(xy + wh / 2, box[..., :2] + box[..., 2:] / 2)
        both = (high - low).clamp(min=0).prod(-1)
        iou = both / (wh.prod(-1) + box[..., 2:].prod(-1) - both + 1e-7)
        n = there.sum().clamp(min=1)
        objects = F.binary_cross_entropy_with_logits(o, there, pos_weight=self.weight)
        kinds = (F.cross_entropy(k.permute(0, 3, 1, 2), kind, reduction="none") * there).sum() / n
        return ((1 - iou) * there).sum() / n, objects, kinds

    data = lambda self: (floats(2, 3, 16, 16), torch.rand(2, 4, 4, 4) + 0.2, classes(2, 2, 4, 4).float(), classes(4, 2, 4, 4))


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.mu, self.sigma = nn.Linear(20, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.d1, self.d2 = nn.Linear(4, 16), nn.Linear(16, 20)

    def forward(self, x, eps):
        h = F.softplus(self.enc(x))
        mu, log = self.mu(h), self.sigma(h)
        back = self.d2(torch.tanh(self.d1(mu + eps * torch.exp(0.5 * log))))
        return F.mse_loss(back, x, reduction="sum") / x.shape[0], -0.5 * (1 + log - mu ** 2 - log.exp()).sum(1).mean()

    data = lambda self: (floats(6, 20), floats(6, 4))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(10, 12), nn.SELU(), nn.Linear(12, 6))
        self.kind = nn.Linear(6, 3)

    def forward(self, a, b, same, kind):
        u, v = F.normalize(self.f(a)), F.normalize(self.f(b))
        d = torch.sqrt(((u - v) ** 2).sum(1) + 1e-6)
        near = same * d ** 2 + (1 - same) * F.relu(1 - d) ** 2
        return near.mean(), F.nll_loss(F.log_softmax(self.kind(u), 1), kind), (1 - F.cosine_similarity(u, v)).mean()

    data = lambda self: (floats(5, 10), floats(5, 10), classes(2, 5).float(), classes(3, 5))


class Audio(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(1, 6, 9, 4, 4), nn.Conv1d(6, 8, 5, 2, padding=4, dilation=2)
        self.na, self.nb = nn.BatchNorm1d(6), nn.GroupNorm(4, 8)
        self.p = nn.PReLU(8)
        self.word = nn.Linear(8, 4)
        self.register_buffer("share", torch.tensor([1.0, 2.0, 0.5, 1.0]))

    def forward(self, wave, word, pitch):
        y = F.glu(torch.cat([self.na(self.a(wave)), self.a(wave)], 1), 1)
        y = self.p(self.nb(self.b(F.pad(y, (2, 2), mode="reflect"))))
        y = torch.cat([y.amax(2), y.std(2)], 1)[:, :8] + torch.logsumexp(y, 2)
        return F.cross_entropy(self.word(y), word, weight=self.share), \
            F.kl_div(F.log_softmax(self.word(y), 1), torch.softmax(pitch, 1), reduction="batchmean")

    data = lambda self: (floats(3, 1, 64), classes(4, 3), floats(3, 4))


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, (1, 3, 3), (1, 2, 2))
        self.up = nn.ConvTranspose3d(4, 2, 2, 2)
        self.n = nn.BatchNorm3d(4)
        self.out = nn.Linear(4, 2)

    def forward(self, x, y, z):
        h = F.max_pool3d(F.relu(self.n(self.a(x))), 2)
        g = self.b(h)
        return ((self.up(h) - y) ** 2).mean(), F.cross_entropy(self.out(g.mean((2, 3, 4))), z)

    data = lambda self: (floats(2, 1, 6, 8, 8), floats(2, 2, 6, 8, 8), classes(2, 2))


class Dlrm(nn.Module):
    """Embeddings, pairwise products."""

    def __init__(self):
        super().__init__()
        self.emb = nn.ModuleList([nn.Embedding(11, 6) for _ in range(3)])
        self.low, self.high = nn.Linear(5, 6), nn.Linear(12, 8)
        self.click, self.spend = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, c, x, click, spend):
        v = torch.stack([F.relu(self.low(x))] + [e(c[:, i]) for i, e in enumerate(self.emb)], 1)
        products = torch.bmm(v, v.transpose(1, 2))
        i, j = torch.tril_indices(4, 4, -1)
        h = F.relu(self.high(torch.cat([v[:, 0], products[:, i, j]], 1)))
        p = torch.sigmoid(self.click(h)[:, 0])
        focal = -(click * (1 - p) ** 2 * torch.log(p) + (1 - click) * p ** 2 * torch.log(1 - p))
        return focal.mean(), poisson(self.spend(h)[:, 0], spend)

    data = lambda self: (classes(11, 6, 3), floats(6, 5), classes(2, 6).float(), torch.rand(6) * 3)


class Masked(nn.Module):
    """Losses over what a mask leaves, as gather and as Where."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 8)
        self.a, self.b = nn.Linear(8, 1), nn.Linear(8, 5)

    def forward(self, x, y, valid, kind):
        h = torch.tanh(self.f(x))
        a = (self.a(h)[..., 0] - y) ** 2
        p = torch.log_softmax(self.b(h), -1)
        return torch.where(valid > 0, a, torch.zeros_like(a)).sum() / valid.sum(), -p.gather(-1, kind.unsqueeze(-1)).mean()

    data = lambda self: (floats(4, 3, 6), floats(4, 3), classes(2, 4, 3).float() + torch.eye(4)[:, :3], classes(5, 4, 3))


class Selected(nn.Module):
    """a[mask]: how much is left depends on the data."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 8)
        self.a, self.b = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x, y, valid):
        h = torch.tanh(self.f(x))
        a = (self.a(h)[..., 0] - y).abs()
        return a[valid > 0].mean(), (self.b(h)[..., 0] ** 2)[y > 0].sum()

    data = lambda self: (floats(4, 3, 6), floats(4, 3), classes(2, 4, 3).float() + torch.eye(4)[:, :3])


class SelectedRows(nn.Module):
    """Cross entropy over logits[mask], the mask from the labels; an entropy over the same rows."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 8)
        self.a, self.b = nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x, kind, other):
        h = torch.tanh(self.f(x))
        known = kind != -1
        return F.cross_entropy(self.a(h)[known], kind[known]), ((torch.sigmoid(self.b(h)[known]) - other[known]) ** 2).sum(-1).mean()

    data = lambda self: (floats(4, 3, 6), classes(6, 4, 3) - 1, floats(4, 3, 4))


class SelectedTwice(nn.Module):
    """Two masks in one task; masked_select; a distance between vectors that a mask leaves."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 8)
        self.a, self.b = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x, y, z):
        h = torch.tanh(self.f(x))
        a = self.a(h)[..., 0]
        near, far = y > 0, y < 0.5
        one = a[near].mean() + (a[far] - y[far]).pow(2).mean() / 2
        two = torch.masked_select(torch.exp(self.b(h) * 0.1), z > 0).mean()
        rows = (self.b(h)[near] * z[near]).sum(-1)
        return one, two, (rows.abs() + 1).log().sum() / rows.numel()

    data = lambda self: (floats(4, 3, 6), floats(4, 3), floats(4, 3, 3))


class SelectedIndex(nn.Module):
    """The indices of what is chosen, from torch.nonzero."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 8)
        self.a, self.b = nn.Linear(8, 1), nn.Linear(8, 5)

    def forward(self, x, y, kind):
        h = torch.tanh(self.f(x))
        at = torch.nonzero(y > 0)[:, 0]
        i, = torch.where(kind != 2)
        return smooth_l1(self.a(h)[:, 0][at], y[at]), F.cross_entropy(self.b(h)[i], kind[i])

    data = lambda self: (floats(7, 6), floats(7), torch.tensor([0, 2, 1, 4, 3, 2, 0]))


class Expert(nn.Module):
    """Top-2 mixture of experts."""

    def __init__(self):
        super().__init__()
        self.gate, self.w = nn.Linear(6, 4), nn.Parameter(torch.randn(4, 6, 5) * 0.4)
        self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, x, kind, y):
        top, at = torch.topk(torch.softmax(self.gate(x), -1), 2)
        e = torch.einsum("bi,eio->beo", x, self.w)
        h = (torch.gather(e, 1, at.unsqueeze(-1).expand(-1, -1, 5)) * (top / top.sum(-1, keepdim=True)).unsqueeze(-1)).sum(1)
        return F.cross_entropy(self.a(h), kind), F.mse_loss(self.b(h)[:, 0], y), torch.softmax(self.gate(x), -1).mean(0).pow(2).sum()

    data = lambda self: (floats(7, 6), classes(3, 7), floats(7))


class Sdpa(nn.Module):
    """Scaled dot product attention, RMSNorm, SwiGLU, rotary positions: what new language models have."""

    def __init__(self):
        super().__init__()
        self.emb, self.q, self.kv, self.o = nn.Embedding(13, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.n1, self.n2 = nn.Parameter(torch.ones(16)), nn.RMSNorm(16)
        self.up, self.gate, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head, self.score = nn.Linear(16, 13), nn.Linear(16, 1)

    def forward(self, words, after, score):
        y = self.emb(words)
        h = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.n1
        n, t, _ = h.shape
        q = self.q(h).view(n, t, 4, 4).transpose(1, 2)
        k, v = self.kv(h).view(n, t, 2, 2, 4).permute(2, 0, 3, 1, 4)
        angle = torch.arange(t)[:, None] * torch.tensor([1.0, 0.1])
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        turn = lambda x: x * cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * sin
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        a = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
        y = y + self.o(a.transpose(1, 2).reshape(n, t, 16))
        h = self.n2(y)
        y = y + self.down(F.silu(self.gate(h)) * self.up(h))
        return F.cross_entropy(self.head(y).transpose(1, 2), after, ignore_index=0), F.mse_loss(self.score(y[:, -1])[:, 0], score)

    data = lambda self: (classes(13, 2, 6), classes(13, 2, 6), floats(2))


class Packed(nn.Module):
    """Sequences of different lengths, packed: two layers of a bidirectional LSTM; then a GRU."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(12, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True, dropout=0.0)
        self.gru = nn.GRU(10, 4, batch_first=True)
        self.tag, self.score = nn.Linear(10, 3), nn.Linear(14, 1)

    def forward(self, words, lengths, tags, score):
        pack = nn.utils.rnn.pack_padded_sequence(self.emb(words), lengths, batch_first=True)
        y, (h, c) = self.lstm(pack)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        _, last = self.gru(y)
        both = torch.cat([h[-2], c[-1], last[0]], -1)
        return F.cross_entropy(self.tag(y).transpose(1, 2), tags, ignore_index=-100), mse(self.score(both)[:, 0], score)

    data = lambda self: (classes(11, 4, 6) + 1, torch.tensor([6, 5, 3, 2]), classes(3, 4, 6), floats(4))


class Recurrences(nn.Module):
    """One layer of each kind; layers that two tasks share; a layer that is run twice; states that come from a task's input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3, padding=1)
        self.tanh = nn.RNN(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.relu = nn.RNN(10, 5, nonlinearity="relu", batch_first=True, bias=False)
        self.lstm = nn.LSTM(5, 5, batch_first=True)
        self.start = nn.Linear(4, 5)
        self.query = nn.Parameter(torch.randn(5))
        self.one, self.two = nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x, given, one, two):
        y = F.relu(self.conv(x)).transpose(1, 2)
        y, _ = self.tanh(y)
        y, _ = self.relu(y)
        h = torch.tanh(self.start(given)).unsqueeze(0)
        y, (h, c) = self.lstm(y, (h, h * 0.5))
        again, _ = self.lstm(y, (h, c))
        weight = torch.softmax(again @ self.query, 1).unsqueeze(-1)
        return mse(self.one((y * weight).sum(1)), one), F.cross_entropy(self.two(again[:, -1]), two)

    data = lambda self: (floats(3, 3, 7), floats(3, 4), floats(3, 2), classes(3, 3))


class Gates(nn.Module):
    """GRU layers, time first, over the same words from both ends; only the last states are used by one task."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(9, 5)
        self.a, self.b = nn.GRU(5, 6, num_layers=2, bidirectional=True), nn.GRU(12, 4, bias=False)
        self.next, self.kind = nn.Linear(12, 9), nn.Linear(16, 2)

    def forward(self, words, following, kind):
        y, h = self.a(self.emb(words).transpose(0, 1))
        _, last = self.b(y.flip(0))
        kinds = self.kind(torch.cat([h[-1], h[0], last[0]], -1))
        return F.cross_entropy(self.next(y).permute(1, 2, 0), following), F.cross_entropy(kinds, kind)

    data = lambda self: (classes(9, 3, 5), classes(9, 3, 5), classes(2, 3))


class Cells(nn.Module):
    """Cells called in a Python loop; their steps stand in the graph one after the other."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(3, 4), nn.GRUCell(4, 4), nn.RNNCell(4, 3)
        self.out = nn.Linear(3, 1)

    def forward(self, x, goal, energy):
        h = c = x.new_zeros(x.shape[0], 4)
        g, r, total = h, x.new_zeros(x.shape[0], 3), 0
        for t in range(4):
            h, c = self.lstm(x[:, t], (h, c))
            g = self.gru(h, g)
            r = self.rnn(g, r)
            total = total + (g ** 2).mean()
        return mse(self.out(r)[:, 0], goal), (total - energy.mean()) ** 2

    data = lambda self: (floats(3, 4, 3), floats(3), floats(3))


class Experts(nn.Module):
    """Several gates over experts, stacked and as a product of Einsum, with PReLU; a task that feeds the next (ESMM)."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(8, 4), nn.EmbeddingBag(9, 3, mode="sum")
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(9, 6), nn.PReLU()) for _ in range(3)])
        self.mix = nn.Parameter(torch.randn(2, 9, 3) * 0.3)
        self.click, self.buy, self.spend = nn.Linear(6, 1), nn.Linear(6, 1), nn.Linear(12, 1)

    def forward(self, user, items, number, click, buy, spend):
        bag = self.item.weight[items].sum(1)
        x = torch.cat([self.user(user), bag, number], 1)
        e = torch.stack([f(x) for f in self.experts], 1)
        gates = torch.softmax(torch.einsum("bi,tie->tbe", x, self.mix), -1)
        mixed = torch.einsum("tbe,beh->tbh", gates, e)
        p = torch.sigmoid(self.click(mixed[0]).squeeze(-1))
        q = p * torch.sigmoid(self.buy(mixed[1]).squeeze(-1))
        bce = lambda p, y: -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()  # the older exporter lacks it
        return (bce(p, click), bce(q, click * buy),
                mse(self.spend(torch.cat([mixed[0], mixed[1]], -1)).squeeze(-1), spend))

    data = lambda self: (classes(8, 5), classes(9, 5, 2), floats(5, 2), classes(2, 5).float(), classes(2, 5).float(), floats(5))


NETWORKS = [ResNet, Mobile, UNet, ViT, Decoder, Yolo, Vae, Siamese, Audio, Volume, Dlrm, Masked, Selected, SelectedRows, SelectedTwice, SelectedIndex, Expert, Sdpa,
            Packed, Recurrences, Gates, Cells, Experts]


# ------------------------------------------------------------------ both sides

def reference(net, data, training):
    net = net.double().train(training)
    data = [d.double() if d.is_floating_point() else d for d in data]
    params = dict(net.named_parameters())
    start = {k: v.clone() for k, v in net.state_dict().items()}
    loss = net(*data)
    grads = [dict(zip(params, torch.autograd.grad(v, list(params.values()), retain_graph=True, allow_unused=True))) for v in loss]
    net.load_state_dict(start)
    walk, opt = [], torch.optim.SGD(net.parameters(), lr=RATE)
    for _ in range(STEPS):
        opt.zero_grad()
        now = net(*data)
        walk.append([float(v) for v in now])
        sum(now).backward()
        opt.step()
    return [float(v) for v in loss], [{k: None if v is None else v.numpy() for k, v in g.items()} for g in grads], np.array(walk)


def export(net, data, how, opset, names, outputs, path):
    how, optimized = how.split("-")[0], "optimized" in how
    if how == "script":
        torch.onnx.export(net, data, str(path), dynamo=False, opset_version=opset, training=torch.onnx.TrainingMode.TRAINING,
                          do_constant_folding=False, input_names=names, output_names=outputs, dynamic_axes={n: {0: "batch"} for n in names})
    else:
        net.eval()  # its BatchNormalization is never in training mode
        torch.onnx.export(net, data, str(path), dynamo=True, opset_version=opset, input_names=names, output_names=outputs,
                          optimize=optimized, verbose=False, dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in data))


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    return done.returncode, (done.stderr + done.stdout).strip()


def close(a, b, tolerance, scale=None):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return f"shape {a.shape}, not {b.shape}"
    scale = np.max(np.abs(b), initial=0) if scale is None else scale
    worst = np.max(np.abs(a - b), initial=0)
    return "" if worst <= tolerance * max(scale, 1e-6) else f"off by {worst / max(scale, 1e-6):.2g}"


def judge(model, feeds, expected, names, outputs, work):
    """A list of what is wrong."""
    losses, grads, walk = expected
    wrong = []
    ort.set_default_logger_severity(3)
    plain = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    used = {i.name for i in plain.get_inputs()}
    feeds = {k: v for k, v in feeds.items() if k in used}
    np.savez(work / "in.npz", **feeds)
    theirs = plain.run(outputs, feeds)
    for name, a, b in zip(outputs, theirs, losses):
        if close(a, b, 1e-3):
            return [f"EXPORT {name}: ONNX Runtime on the export gives {a}, PyTorch {b}"]
    step = work / "step.onnx"
    code, text = run(BIN / "mtbal-rewrite", model, step, "--outputs", "norms,gram,task-grads", "--balance", "equal", "-q")
    if code:
        return [f"rewrite exits with {code}: {text[:600]}"]
    onnx.checker.check_model(str(step), full_check=True)
    code, text = run(BIN / "mtbal-run", step, "--inputs", work / "in.npz", "--outputs", work / "out.npz", "-q")
    ours = None
    if code:
        wrong.append(f"mtbal-run exits with {code}: {text[:400]}")
    else:
        ours = np.load(work / "out.npz")
    # identical initializers that the exporter has made one have the sum of gradients
    merged = "optimized" in str(model)
    results = {"mtbal-run": ours}
    for flags in ([], ["--inline-functions"]):
        if flags:
            run(BIN / "mtbal-rewrite", model, step, "--outputs", "norms,gram,task-grads", "--balance", "equal", "-q", *flags)
        session = ort.InferenceSession(str(step), providers=["CPUExecutionProvider"])
        wanted = [o.name for o in session.get_outputs()]
        results["ORT " + " ".join(flags)] = dict(zip(wanted, session.run(wanted, feeds)))
    for who, got in results.items():
        if got is None:
            continue
        keys = set(got.files if hasattr(got, "files") else got)
        for task, loss, grad in zip(outputs, losses, grads):
            problem = close(got[task], loss, 1e-5)
            if problem:
                wrong.append(f"{who}: loss {task} {problem}")
            scale = max(np.max(np.abs(g)) for g in grad.values() if g is not None)
            for p, g in grad.items():
                key = f"mtbal/task_grad/{task}/{p}"
                if key in keys and g is not None and not merged:
                    problem = close(got[key], g, 1e-4, scale)
                    if problem:
                        wrong.append(f"{who}: gradient of {task} by {p} {problem}")
        missing = [p for p in grads[0] if f"mtbal/task_grad/{outputs[0]}/{p}" not in keys]
        if missing and "script" in str(model):
            wrong.append(f"{who}: no gradient of {', '.join(missing[:6])}")
    if ours is not None:
        run(BIN / "mtbal-rewrite", model, step, "--balance", "equal", "-q")
        code, text = run(BIN / "mtbal-run", step, "--inputs", work / "in.npz", "--limit", STEPS, "--log", work / "log", "-q", "--set", f"lr={RATE}")
        if code:
            wrong.append(f"training exits with {code}: {text[:300]}")
        else:
            log = np.array([list(json.loads(line)["loss"].values()) for line in open(work / "log")])
            problem = close(log, walk, 1e-3)
            if problem and not missing and not merged:
                wrong.append(f"trajectory {problem}")
    return wrong


def main():
    failed = passed = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for make in NETWORKS:
            if CHOSEN and make.__name__ not in CHOSEN:
                continue
            for how, opset in EXPORTS:
                torch.manual_seed(3)
                net = make()
                data = net.data()
                names, outputs = [f"in_{i}" for i in range(len(data))], [f"loss_{i}" for i in range(len(net(*data)))]
                torch.manual_seed(3)
                net = make()
                label, path = f"{make.__name__} {how} {opset}", work / f"{how}.onnx"
                try:
                    said = io.StringIO()
                    out, sys.stdout = sys.stdout, said
                    try:
                        export(net, data, how, opset, names, outputs, path)
                    finally:
                        sys.stdout = out
                except Exception as problem:
                    print(f"skipped {label}: the exporter: {type(problem).__name__}: {str(problem)[:100]!r}", flush=True)
                    continue
                torch.manual_seed(3)
                try:
                    wrong = judge(path, {n: d.numpy() for n, d in zip(names, data)}, reference(make(), data, how == "script"), names, outputs, work)
                except Exception as problem:
                    wrong = [f"{type(problem).__name__}: {str(problem)[:500]}"]
                if wrong and wrong[0].startswith("EXPORT"):
                    print(f"skipped {label}: {wrong[0]}", flush=True)
                    continue
                passed, failed = passed + (not wrong), failed + bool(wrong)
                for w in wrong[:4]:
                    print(f"FAILED {label}: {w}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed != 0)


main()
