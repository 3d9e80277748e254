"""The calibration of mtbal done again in PyTorch: each task alone, from the same starting weights, on the same data, with the
same schedule, but in an order of samples of its own. Compares G (floor), its parts and G at the start.

Shares no code with mtbal: the networks and losses are written anew below, the starting weights come out of a step with
learning rate 0, gradients and Adam are PyTorch's.

  python calibrate.py [folder of the commands] [problem ...]
"""
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

BIN = Path(sys.argv[1] if len(sys.argv) > 1 else "bin")
BATCH, WARMUP, WINDOW, KAPPA, SEEDS = 64, 50, 40, 0.3, 5
PROBLEMS = {  # tasks: name, array of targets, loss; learning rate, epochs
    "digits2": ([("digit", "label", F.cross_entropy),
                 ("clean", "picture", lambda p, y: (p - y).square().sum(1).mean())], 3e-3, 62),
    "toyscale": ([("small", "y0", F.mse_loss), ("large", "y1", F.mse_loss)], 3e-3, 24),
}


def command(name, *arguments):
    return subprocess.run([BIN / name, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def starting_weights(step, data, folder):
    """Parameters by name: what a step with learning rate 0 leaves."""
    out = folder / "start.npz"
    command("mtbal-run", step, "--data", data, "--limit", 1, "--set", "lr=0", "--outputs", out, "--quiet")
    prefix = "mtbal/next/"
    arrays = np.load(out)
    return {k[len(prefix):]: torch.from_numpy(arrays[k].copy()) for k in arrays.files
            if k.startswith(prefix) and not k.startswith(prefix + "mtbal/")}


def forward(weights, x, task):
    layer = 0
    while f"trunk.{layer}.weight" in weights:
        x = F.relu(F.linear(x, weights[f"trunk.{layer}.weight"], weights[f"trunk.{layer}.bias"]))
        layer += 2
    return F.linear(x, weights[f"heads.{task}.weight"], weights[f"heads.{task}.bias"])


def calibrate(start, arrays, task, target, loss_of, lr, epochs, seed):
    """G by floor, RMS at the end, over the run, at the start: of the trunk's gradient."""
    generator = torch.Generator().manual_seed(seed)
    used = [k for k in start if k.startswith("trunk.") or k.startswith(f"heads.{task}.")]
    weights = {k: start[k].clone().requires_grad_() for k in used}
    trunk = [weights[k] for k in used if k.startswith("trunk.")]
    adam = torch.optim.Adam(weights.values(), lr=lr)
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays[target])
    per_epoch = -(-len(x) // BATCH)

    def gradient(rows):
        adam.zero_grad()
        loss_of(forward(weights, x[rows], task), y[rows]).backward()
        return sum(float(p.grad.double().square().sum()) for p in trunk)

    first = np.mean([gradient(torch.randint(len(x), (BATCH,), generator=generator)) for _ in range(WINDOW)])
    squares = []
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            step = len(squares)
            for group in adam.param_groups:
                group["lr"] = lr * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / (epochs * per_epoch)))
            squares.append(gradient(rows))
            adam.step()
    end, run = math.sqrt(np.mean(squares[-WINDOW:])), math.sqrt(np.mean(squares))
    return {"g": max(end, KAPPA * run), "rms_end": end, "rms_run": run, "rms_start": math.sqrt(first)}


def compare(name, folder):
    tasks, lr, epochs = PROBLEMS[name]
    step, data = folder / f"{name}.onnx", Path("models") / f"{name}.train.npz"
    command("mtbal-rewrite", f"models/{name}.onnx", step, "--optimizer", "adam", "--quiet")
    start, arrays = starting_weights(step, data, folder), np.load(data)
    ours = []
    for seed in range(SEEDS):
        told = command("mtbal-calibrate", step, "--data", data, "-o", folder / "out.onnx", "--batch", BATCH, "--cosine",
                       "--warmup", WARMUP, "--max-epochs", epochs, "--window", WINDOW, "--kappa", KAPPA, "--set", f"lr={lr}",
                       "--seed", 1000 * seed, "--json")
        ours.append({t["name"]: t for t in json.loads(told)["tasks"]})
    good = True
    for task, target, loss_of in tasks:
        theirs = [calibrate(start, arrays, task, target, loss_of, lr, epochs, seed) for seed in range(SEEDS)]
        for key in ("g", "rms_end", "rms_run", "rms_start"):
            a = np.log([run[f"loss_{task}"][key] for run in ours])
            b = np.log([run[key] for run in theirs])
            spread = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
            apart = abs(a.mean() - b.mean())
            fits = apart <= 2 * spread  # of one run; the means of five lie closer
            good = good and fits
            print(f"{name:9} {task:6} {key:9}  mtbal {math.exp(a.mean()):10.5g} ± {100 * a.std(ddof=1):4.1f} %   "
                  f"PyTorch {math.exp(b.mean()):10.5g} ± {100 * b.std(ddof=1):4.1f} %   apart {100 * apart:4.1f} %"
                  f"{'' if fits else '   MORE THAN THE SPREAD'}")
    return good


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = [compare(name, Path(folder)) for name in sys.argv[2:] or PROBLEMS]
    print(f"{SEEDS} orders of the samples on each side, ± is their standard deviation;",
          "all within two of them" if all(results) else "some differ by more than two of them")
    sys.exit(not all(results))
