"""Reads event files back with TensorBoard's own package, and says what is in them.

    python3 -m pip install tensorboard
    cargo xtask train-mnist --gpus 2 --epochs 1 --log-dir runs/logs
    python3 burn-dist/tests/observe/read_tensorboard.py runs/logs

No part of the default tests, which need no Python.
"""

import math
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EXPECTED = {
    "step/seconds",
    "step/samples_per_second",
    "sync/wait_seconds",
    "sync/gradient_bytes",
    "sync/sent_bytes_total",
    "ranks/slowest",
}

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
assert events.file_version == 2.0, events.file_version
tags = events.Tags()["scalars"]
missing = EXPECTED - set(tags)
assert not missing, f"missing: {missing}"
for tag in tags:
    scalars = events.Scalars(tag)
    steps = [scalar.step for scalar in scalars]
    assert steps == sorted(set(steps)), f"{tag}: steps {steps}"
    assert all(math.isfinite(scalar.value) for scalar in scalars), tag
    print(f"{tag}: {len(scalars)} values, steps {steps[0]} to {steps[-1]}, last {scalars[-1].value:.6g}")
steps = [scalar.step for scalar in events.Scalars("step/seconds")]
assert steps == list(range(len(steps))), "a step is missing"
print("all well")
