"""dictionary_read: ours against two matrix products and a softmax, eager and compiled, and PyTorch's fused attention.

python bench/dictionary_read.py [--quick] [--device cuda] [--no-compile]
"""

from functools import partial
from typing import Any

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import ops

# The reads of LD-Net by level: a map's side as a divisor of the size, entries, channels of a value; keys have 32.
LEVELS = ((2, 512, 32), (4, 256, 64), (8, 128, 128), (16, 64, 256))
KEY = 32


def read_case(size: int, divisor: int, entries: int, channels: int, dtype: torch.dtype, options: Any) -> dict[str, Any]:
    """One line of the table."""
    rows = (size // divisor) ** 2
    u = (torch.randn(entries, KEY) * 3 / KEY**0.5).to(dtype)  # scores spread as widely as a trained network's
    v = torch.randn(1, entries, channels).to(dtype)
    take = timing.rotate(lambda: torch.randn(1, rows, KEY).to(dtype), rows * KEY * dtype.itemsize)
    out = torch.empty(1, rows, channels, dtype=dtype)
    what = {"what": f"{rows} x {entries}, values of {channels}", "dtype": str(dtype).removeprefix("torch.")}

    def eager(q: Tensor) -> Tensor:
        return torch.softmax(q @ u.T, -1) @ v

    def attention() -> Tensor:
        return F.scaled_dot_product_attention(take()[:, None], u[None, None], v[:, None], scale=1.0)

    q = take()
    want = ops.dictionary_read_reference(q.double(), u.double(), v.double())
    timing.need_close(", ".join(what.values()), ops.dictionary_read(q, u, v), want)
    read = partial(ops.dictionary_read, u=u, v=v, out=out)
    functions = {"ours": lambda: read(take()), "eager": lambda: eager(take()), "SDPA": attention}
    case = timing.Case(what, functions["ours"], eager, lambda: (take(),), 0)
    compiled = timing.compiled(case, options.device) if options.compile else None
    if compiled:
        functions["torch.compile"] = lambda: compiled(take())
    measure = timing.measure if options.device == "cpu" else timing.measure_gpu
    times = measure(functions, 9 if options.quick else 25, max_seconds=3.0)
    ours, operations = times["ours"], 2 * rows * entries * (KEY + channels)
    line = {name + " ms": taken["median_ms"] for name, taken in times.items()}
    line["p20 - p80"] = f"{ours['p20_ms']:.3g} - {ours['p80_ms']:.3g}"
    return {**what, **line, "GFLOP": operations / 1e9, "GFLOP/s": operations / ours["median_ms"] / 1e6}


@torch.inference_mode()
def main() -> None:
    options = timing.arguments(__doc__)
    device = options.device
    torch.set_default_device(device)
    torch.manual_seed(0)
    half = torch.bfloat16 if device == "cpu" else torch.float16
    rows = [
        read_case(size, *level, dtype, options)
        for size in ((256,) if options.quick else (256, 512))
        for level in LEVELS
        for dtype in (torch.float32, half)
    ]
    notes = (
        "The reads of LD-Net's translator at 256 and 512. Eager in half precision rounds the scores too, ours and SDPA "
        "do not; compute-bound, so operations a second instead of a share of a copy."
    )
    columns = ["what", "dtype", "ours ms", "p20 - p80", "eager ms", "SDPA ms"]
    columns += [*(["torch.compile ms"] if options.compile else []), "GFLOP", "GFLOP/s"]
    print(timing.table(rows, columns))
    content = {"title": f"dictionary_read on the {device.upper()}", "columns": columns, "rows": rows, "notes": [notes]}
    timing.save("dictionary_read", content, options)


if __name__ == "__main__":
    main()
