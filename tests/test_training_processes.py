"""Two processes train one run: the same weights in both, as one process has them with both shares of the batch."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_case import Discs, digest
from training_processes import CONFIG, frozen_steps

from fastreenact.training import processes
from fastreenact.training.data.batches import Batch, batch_of
from fastreenact.training.loop import LOSSES, Trainer


def both(step: int) -> Batch:
    """The shares of both processes as one batch."""
    first, second = (batch_of(Discs(), CONFIG.seed, step, 1, CONFIG.motion_size, base=False, rank=r) for r in (0, 1))
    assert not torch.equal(first.driver, second.driver)
    parts = []
    for a, b in zip(first, second, strict=True):
        if isinstance(a, torch.Tensor):
            parts.append(torch.cat([a, b]))
        else:
            parts.append(a and tuple(torch.cat(pair) for pair in zip(a, b, strict=True)))
    return Batch(*parts)._replace(distinct=torch.tensor([0, 1]), source_of=torch.tensor([0, 1]))


@pytest.mark.slow
def test_two_processes_are_one_with_both_shares(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out, script = tmp_path / "run", Path(__file__).with_name("training_processes.py")
    launch = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *launch, str(script), str(out)], check=True, timeout=300, env=environment)
    digests = [(out / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert digests[0] == digests[1]

    lines = [json.loads(line) for line in (out / LOSSES).read_text().splitlines()]
    assert [line.pop("step") for line in lines] == [0, 1, 2]
    alone = Trainer(Discs(), tmp_path / "alone", CONFIG)
    frozen_steps(alone)
    for step, line in enumerate(lines[:2]):
        assert alone._train(both(step)) == pytest.approx(line, rel=1e-3), step
        alone.step += 1

    again = Trainer(Discs(), out, CONFIG, resume=True)  # by one process
    assert again.step == 3
    assert digest(again) == digests[0]


def test_alone_nothing_is_done():
    assert (processes.count(), processes.rank()) == (1, 0)
    values = [torch.tensor([1.0, 2.0]), torch.tensor(3.0)]
    processes.average(values)
    processes.wait()
    assert values[0].tolist() == [1.0, 2.0]
    assert processes.any_of(True, torch.device("cpu"))
    assert not processes.any_of(False, torch.device("cpu"))


@pytest.mark.parametrize("motion_size", [128, 64])
def test_a_batch_that_cannot_be_shared(monkeypatch, tmp_path, motion_size):
    monkeypatch.setattr(processes, "count", lambda: 4 if motion_size == 128 else 2)
    with pytest.raises(ValueError, match="processes cannot share a batch of 2: choose a multiple"):
        Trainer(Discs(), tmp_path, replace(CONFIG, motion_size=motion_size))
