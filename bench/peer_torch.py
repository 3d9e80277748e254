"""One round of PyTorch on the MLP of bench_mlp.c, one core: prints the milliseconds of a forward pass and of an SGD step."""
import time

import torch
from torch import nn

WARM, STEPS = 10, 100

torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
x, label = torch.rand(64, 784), torch.zeros(64, dtype=torch.int64)
sgd = torch.optim.SGD(net.parameters(), lr=0.01)


def forward():
    return nn.functional.cross_entropy(net(x), label)


def infer():
    with torch.inference_mode():
        forward()


def step():
    sgd.zero_grad()
    forward().backward()
    sgd.step()


def measure(run):
    for _ in range(WARM):
        run()
    start = time.perf_counter()
    for _ in range(STEPS):
        run()
    return (time.perf_counter() - start) / STEPS * 1e3


print(f"{measure(infer):.4f} {measure(step):.4f}")
