"""Several processes that train one run together, as `torchrun` starts them; alone, all of this does nothing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

_PATIENCE = timedelta(days=1)  # the first process may have videos to track before the others go on


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Meet the other processes that `torchrun` started; gives this one's device, a GPU of its own where it is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield device
    dist.destroy_process_group()  # not after an error: the others wait elsewhere, and torchrun ends them


def count() -> int:
    """How many there are."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Which of them this is; 0 writes."""
    return dist.get_rank() if _together() else 0


def wait() -> None:
    """Until all have come here."""
    if _together():
        dist.barrier()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace float32 tensors, all on one device, by their means over the processes; the same in all, to the bit."""
    if not _together() or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view(tensor.shape))


def any_of(here: bool, device: torch.device) -> bool:
    """Whether it is true in any of them."""
    if not _together():
        return here
    flag = torch.tensor(float(here), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
