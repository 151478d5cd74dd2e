"""grid_sample_3d: ours against F.grid_sample in PyTorch, eager and compiled.

python bench/grid_sample_3d.py [--quick] [--device cuda] [--no-compile]
"""

from collections.abc import Iterator
from functools import partial

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import ops

# MegaPortraits: C, and D, H, W of the volumes that it samples (Sec. 3.1) and of its enhancer (Fig. 10).
CHANNELS, SIZES = 96, ((16, 64, 64), (16, 128, 128))


def grid_of(kind: str, sizes: tuple[int, int, int]) -> Tensor:
    """[1, D, H, W, 3]: a head turned and bent a little, partly outside; or anything between -1 and 1."""
    if kind == "random":
        return torch.rand(1, *sizes, 3) * 2 - 1
    z, y, x = torch.meshgrid(*((torch.arange(n) + 0.5) * 2 / n - 1 for n in sizes), indexing="ij")
    turned = torch.stack((0.95 * x + 0.3 * z, y + 0.1 * x, 0.95 * z - 0.3 * x), 3)[None]
    bend = F.interpolate((torch.rand(1, 3, 4, 5, 5) - 0.5) * 0.2, size=sizes, mode="trilinear")
    return (turned + bend.permute(0, 2, 3, 4, 1)).contiguous()


def volume_case(sizes: tuple[int, int, int], kind: str, dtype: torch.dtype, sum_depth: bool) -> timing.Case:
    """One volume and grid of the same size."""
    grid = grid_of(kind, sizes)
    rounded = grid.to(dtype)  # F.grid_sample takes one dtype only, coordinates included
    voxels = grid[..., 0].numel()
    moved = CHANNELS * (voxels + voxels // (sizes[0] if sum_depth else 1)) * dtype.itemsize + grid.numel() * 4
    take = timing.rotate(lambda: torch.randn(1, *sizes, CHANNELS).to(dtype), moved)
    take_ncdhw = timing.rotate(lambda: torch.randn(1, CHANNELS, *sizes).to(dtype), moved)

    def eager(x: Tensor) -> Tensor:
        sampled = F.grid_sample(x, rounded, align_corners=False)
        return sampled.sum(2) if sum_depth else sampled

    volume = take()
    name = " x ".join(map(str, (CHANNELS, *sizes))) + f", {kind}" + (", sum" if sum_depth else "")
    out = ops.grid_sample_3d(volume, grid, sum_depth=sum_depth)
    timing.need_close(
        f"{name} {dtype}", out, ops.grid_sample_3d_reference(volume.double(), grid.double(), sum_depth=sum_depth)
    )
    case = {"what": name, "dtype": str(dtype).removeprefix("torch.")}
    ours = partial(ops.grid_sample_3d, grid=grid, sum_depth=sum_depth, out=out)
    return timing.Case(case, lambda: ours(take()), eager, lambda: (take_ncdhw(),), moved)


def cases(quick: bool, floats: tuple[torch.dtype, ...]) -> Iterator[timing.Case]:
    """The lines of the table."""
    for kind in ("smooth", "random"):
        for dtype in floats:
            for sum_depth in (False, True):
                yield volume_case(SIZES[0], kind, dtype, sum_depth)
    for dtype in () if quick else floats:
        yield volume_case(SIZES[1], "smooth", dtype, False)


@torch.inference_mode()
def main() -> None:
    options, device, copy_rate = timing.begin(__doc__)
    half = torch.bfloat16 if device == "cpu" else torch.float16
    rows = timing.rows(cases(options.quick, (torch.float32, half)), options, copy_rate)
    notes = (
        "Channels x depth x height x width, zeros outside; `sum` adds up the depth. A smooth grid turns and bends a "
        "head, a random one has no locality at all. Eager: F.grid_sample on contiguous [N, C, D, H, W]. MB: volume, "
        f"grid and output once; the copy moves {copy_rate:.0f} GB/s."
    )
    title = f"grid_sample_3d on the {device.upper()}"
    timing.report("grid_sample_3d", title, ["what", "dtype"], rows, [notes], options)


if __name__ == "__main__":
    main()
