"""Times PyTorch on Gloo over 127.0.0.1, as the benches of burn-dist time their own.

`--bench all-reduce`: torch.distributed.all_reduce of f32, in place; all ranks begin a repetition together,
and the median of many is what rank 0 sees. `--bench growth`: the barrier, too. `--bench broadcast`: from rank 0,
until a barrier says that all have it. `--bench ddp-step`: training steps of the MNIST CNN under
DistributedDataParallel, against the same replicas without, in alternating blocks; the slowest rank's median.

Prints lines of JSON. Each rank is a process with one thread of its own. Caller: `cargo xtask bench --peers`.
"""

import argparse
import copy
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def options():
    parser = argparse.ArgumentParser()
    benches = ["all-reduce", "growth", "broadcast", "ddp-step"]
    parser.add_argument("--bench", choices=benches, default="all-reduce")
    parser.add_argument("--layout", choices=["processes"], default="processes")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[])
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each size")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    return parser.parse_args()


def rank_main(rank, chosen, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=chosen.ranks)
    benches = {"all-reduce": all_reduce, "growth": growth, "broadcast": broadcast, "ddp-step": ddp_step}
    for line in benches[chosen.bench](chosen):
        if rank == 0:
            head = {"bench": chosen.bench, "layout": chosen.layout, "ranks": chosen.ranks}
            print(json.dumps(head | line), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def median(budget, operate):
    """The median time of an operation."""

    def once():
        dist.barrier()
        start = time.perf_counter()
        operate()
        return time.perf_counter() - start

    once()
    # All ranks repeat as often as rank 0 finds right.
    often = torch.tensor([budget / max(once(), 1e-5)])
    dist.broadcast(often, 0)
    times = [once() for _ in range(min(max(int(often.item()), 5), 2000))]
    return statistics.median(times)


def all_reduce(chosen):
    for size in chosen.sizes:
        tensor = torch.zeros(size // 4)
        yield {"bytes": size, "seconds": median(chosen.budget, lambda: dist.all_reduce(tensor))}


def growth(chosen):
    yield {"bench": "growth-barrier", "bytes": 0, "seconds": median(chosen.budget, dist.barrier)}
    for line in all_reduce(chosen):
        yield {"bench": "growth-all-reduce"} | line


def broadcast(chosen):
    for size in chosen.sizes:
        tensor = torch.zeros(size // 4)

        def to_all():
            dist.broadcast(tensor, 0)
            dist.barrier()

        yield {"bytes": size, "seconds": median(chosen.budget, to_all)}


def network():
    """The network of models/src/mnist_cnn.rs."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def ddp_step(chosen):
    torch.manual_seed(0)
    alone = network()
    synced = DistributedDataParallel(copy.deepcopy(alone))
    images = torch.rand(chosen.batch, 1, 28, 28)
    targets = torch.zeros(chosen.batch, dtype=torch.long)

    def train(model, steps):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        loss = nn.CrossEntropyLoss()
        times = []
        dist.barrier()
        for _ in range(steps):
            start = time.perf_counter()
            optimizer.zero_grad()
            loss(model(images), targets).backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
        return times

    # The first steps order the buckets and warm the caches.
    train(synced, 2)
    train(alone, 2)
    with_ddp, without = [], []
    for _ in range(chosen.blocks):
        with_ddp += train(synced, chosen.steps)
        without += train(alone, chosen.steps)
    slowest = torch.tensor([statistics.median(with_ddp), statistics.median(without)], dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    yield {
        "bytes": 4 * sum(parameter.numel() for parameter in alone.parameters()),
        "seconds": slowest[0].item(),
        "peer": "without synchronisation",
        "peer_seconds": slowest[1].item(),
    }


def main():
    chosen = options()
    # Gloo would ask the machine's name for an address, which may be no loopback address, or none at all.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    # Each rank begins as a copy of this process: torch takes seconds to import.
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        ranks = [
            context.Process(target=rank_main, args=(rank, chosen, store)) for rank in range(chosen.ranks)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    return max(abs(rank.exitcode) for rank in ranks)


if __name__ == "__main__":
    sys.exit(main())
