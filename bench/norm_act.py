"""norm_act: ours against F.group_norm and the element-wise operations after it, eager and compiled.

python bench/norm_act.py [--quick] [--device cuda] [--no-compile]
"""

from typing import Any

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import ops

# Shape [N, (D,) H, W, C], groups, options beside a scale and shift. MegaPortraits: GroupNorm of 32 groups and ReLU in
# G2D at 512 and 1024, adaptive in the warp generators; PASL: AdaIN, leaky ReLU, nearest x2.
CASES: list[tuple[tuple[int, ...], int, dict[str, Any]]] = [
    ((1, 64, 64, 512), 32, {"activation": "relu"}),
    ((1, 128, 128, 256), 32, {"activation": "relu"}),
    ((1, 512, 512, 64), 32, {"activation": "relu"}),
    ((1, 1024, 1024, 32), 32, {"activation": "relu"}),
    ((1, 512, 512, 64), 32, {"activation": "relu", "residual": True}),
    ((1, 16, 64, 64, 32), 32, {"activation": "relu", "adaptive": True}),
    ((1, 16, 64, 64, 96), 32, {"activation": "relu"}),
    ((1, 128, 128, 128), 128, {"activation": "leaky_relu", "adaptive": True, "upsample": (2, 2)}),
]  # fmt: skip


def norm_act_case(shape: tuple[int, ...], groups: int, options: dict[str, Any], dtype: torch.dtype) -> timing.Case:
    """One layer."""
    channels = shape[-1]
    what = " x ".join(map(str, (channels, *shape[1:-1])))
    what += "".join(f", {word}" for word in ("adaptive", "residual", "upsample") if word in options)
    options = dict(options)
    scale, shift = torch.randn(2, *([1] if options.pop("adaptive", False) else []), channels).to(dtype)
    bytes_x = torch.Size(shape).numel() * dtype.itemsize
    moved = bytes_x * (6 if "upsample" in options else 3)
    if options.pop("residual", False):
        options["residual"] = torch.randn(shape).to(dtype)
        moved += bytes_x
    take = timing.rotate(lambda: torch.randn(shape).to(dtype), bytes_x)

    def eager(x: Tensor) -> Tensor:
        y = x.movedim(-1, 1)
        if scale.dim() == 1:
            y = F.group_norm(y, groups, scale, shift)
        else:
            each = (*scale.shape, *[1] * (x.dim() - 2))
            y = torch.addcmul(shift.view(each), F.instance_norm(y), scale.view(each))
        if "residual" in options:
            y = y + options["residual"].movedim(-1, 1)
        y = F.relu(y) if options["activation"] == "relu" else F.leaky_relu(y, 0.2)
        return F.interpolate(y, scale_factor=2.0, mode="nearest") if "upsample" in options else y

    x = take()
    wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
    out = ops.norm_act(x, groups, scale=scale, shift=shift, **options)
    want = ops.norm_act_reference(x.double(), groups, scale=scale.double(), shift=shift.double(), **wide)
    timing.need_close(f"{what} {dtype}", out, want)
    greatest, _ = timing.closeness(eager(x).movedim(1, -1), want)
    if greatest > 0.05:  # it rounds between its operations, so it is not held to the tolerance of one
        raise SystemExit(f"{what} {dtype}: eager PyTorch computes something else")
    case = {"what": what, "dtype": str(dtype).removeprefix("torch.")}
    ours = lambda: ops.norm_act(take(), groups, scale=scale, shift=shift, out=out, **options)  # noqa: E731
    return timing.Case(case, ours, eager, lambda: (take(),), moved)


@torch.inference_mode()
def main() -> None:
    options, device, copy_rate = timing.begin(__doc__)
    dtypes = (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16)
    cases = (norm_act_case(*case, dtype) for case in (CASES[:2] if options.quick else CASES) for dtype in dtypes)
    rows = timing.rows(cases, options, copy_rate)
    notes = (
        "Channels-last memory for all. MB, what has to move at least: x read once for the statistics and once for the "
        "sweep, the residual read once, the result written once (four times x where it is enlarged); a share of a copy "
        "is high where a tensor stays in the cache between the two readings. The copy moves "
        f"{copy_rate:.0f} GB/s."
    )
    timing.report("norm_act", f"norm_act on the {device.upper()}", ["what", "dtype"], rows, [notes], options)


if __name__ == "__main__":
    main()
