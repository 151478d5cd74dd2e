"""norm_act: ours against F.group_norm and the element-wise operations after it, eager and through torch.compile.

    python bench/norm_act.py [--quick] [--device cuda]
"""

import argparse
import itertools
from typing import Any

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import ops

# What, shape [N, (D,) H, W, C], groups, options beside a scale and shift. MegaPortraits: GroupNorm of 32 groups and
# ReLU in G2D at 512 and 1024, adaptive in the warp generators; PASL: AdaIN, leaky ReLU, nearest x2.
CASES: list[tuple[str, tuple[int, ...], int, dict[str, Any]]] = [
    ("512 x 64 x 64", (1, 64, 64, 512), 32, {"activation": "relu"}),
    ("256 x 128 x 128", (1, 128, 128, 256), 32, {"activation": "relu"}),
    ("64 x 512 x 512", (1, 512, 512, 64), 32, {"activation": "relu"}),
    ("32 x 1024 x 1024", (1, 1024, 1024, 32), 32, {"activation": "relu"}),
    ("64 x 512 x 512, residual", (1, 512, 512, 64), 32, {"activation": "relu", "residual": True}),
    ("32 x 16 x 64 x 64, adaptive", (1, 16, 64, 64, 32), 32, {"activation": "relu", "adaptive": True}),
    ("96 x 16 x 64 x 64", (1, 16, 64, 64, 96), 32, {"activation": "relu"}),
    ("128 x 128 x 128, adaptive, x2", (1, 128, 128, 128), 128, {
        "activation": "leaky_relu", "adaptive": True, "upsample": (2, 2)}),
]  # fmt: skip


def eager(x: Tensor, groups: int, scale: Tensor, shift: Tensor, options: dict[str, Any]) -> Tensor:
    """The same with PyTorch's own operations, on channels-last memory as ours."""
    y = x.movedim(-1, 1)
    if scale.dim() == 1:
        y = F.group_norm(y, groups, scale, shift)
    else:
        each = (*scale.shape, *[1] * (x.dim() - 2))
        y = torch.addcmul(shift.view(each), F.instance_norm(y), scale.view(each))
    if "residual" in options:
        y = y + options["residual"].movedim(-1, 1)
    y = F.relu(y) if options["activation"] == "relu" else F.leaky_relu(y, 0.2)
    return F.interpolate(y, scale_factor=2, mode="nearest") if "upsample" in options else y


def prepare(
    what: str, shape: tuple[int, ...], groups: int, options: dict[str, Any], dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """One case: its description, functions of no argument, and bytes that have to move."""
    channels = shape[-1]
    options = dict(options)
    scale, shift = torch.randn(2, *([1] if options.pop("adaptive", False) else []), channels).to(dtype)
    bytes_x = torch.Size(shape).numel() * dtype.itemsize
    written = bytes_x * (4 if "upsample" in options else 1)
    moved = 2 * bytes_x + written
    if options.pop("residual", False):
        options["residual"] = torch.randn(shape).to(dtype)
        moved += bytes_x
    take = timing.rotate(lambda: torch.randn(shape).to(dtype), bytes_x + written)
    x = take()
    wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
    got = ops.norm_act(x, groups, scale=scale, shift=shift, **options)
    want = ops.norm_act_reference(x.double(), groups, scale=scale.double(), shift=shift.double(), **wide)
    timing.need_close(f"{what} {dtype}", got, want)
    greatest, _ = timing.closeness(eager(x, groups, scale, shift, options).movedim(1, -1), want)
    if greatest > 0.05:  # it rounds between its operations, so it is not held to the tolerance of one
        raise SystemExit(f"{what} {dtype}: eager PyTorch computes something else")
    torch.compiler.reset()  # it gives up after eight shapes of one function
    compiled = torch.compile(eager, dynamic=False)
    source = torch.rand(16 << 20 if x.device.type == "cpu" else 256 << 20)
    target = torch.empty_like(source)
    functions = {
        "ours": lambda: ops.norm_act(take(), groups, scale=scale, shift=shift, out=got, **options),
        "eager": lambda: eager(take(), groups, scale, shift, options),
        "torch.compile": lambda: compiled(take(), groups, scale, shift, options),
        "copy": lambda: target.copy_(source),
    }
    return {"what": what, "dtype": str(dtype).removeprefix("torch.")}, functions, moved


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: a look, not a result")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    quick, device = options.quick, options.device
    measure = timing.measure if device == "cpu" else timing.measure_gpu
    torch.set_default_device(device)
    torch.manual_seed(0)
    dtypes = (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16)
    copied = 2 * 4 * (16 << 20 if device == "cpu" else 256 << 20)
    rows, rates = [], []
    for what, dtype in itertools.product(CASES[:2] if quick else CASES, dtypes):
        case, functions, moved = prepare(*what, dtype)
        # The copy takes turns with the rest, so that a busy moment of the machine hits both.
        times = measure(functions, 9 if quick else 40, max_seconds=2.0)
        rates.append(copied / times["copy"]["median_ms"] / 1e6)
        compiled = times["torch.compile"]["median_ms"]
        rows.append(timing.row(case, times, moved, rates[-1]) | {"torch.compile ms": compiled})
    notes = (
        "Channels-last memory for all. MB, what has to move at least: x read once for the statistics and once for the "
        "sweep, the residual read once, the result written once (four times x where it is enlarged). The share of a "
        "copy is high where a tensor stays in the cache between the two readings. The copy takes turns with the rest; "
        f"it moves {min(rates):.0f} to {max(rates):.0f} GB/s."
    )
    timing.report(
        "norm_act", f"norm_act on the {device.upper()}", ["what", "dtype", "torch.compile ms"], rows, [notes],
        device=device,
    )  # fmt: skip


if __name__ == "__main__":
    main()
