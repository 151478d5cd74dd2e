"""What a call of an op costs beside its work: the smallest calls, eager, into memory of their own, and replayed.

python bench/calls.py [--quick]
"""

import argparse
from collections.abc import Callable
from functools import partial

import timing
import torch
from torch import Tensor

from fastreenact import ops

CALLS = 400  # in a row, and in one replay


def smallest() -> dict[str, Callable[..., Tensor]]:
    """Of each op a call on one pixel of eight channels, which takes `out`."""
    x, field = torch.randn(1, 1, 1, 8), torch.zeros(1, 1, 1, 2)
    table, index = torch.randn(1, 2, 2, 8), torch.zeros(1, dtype=torch.int32)
    kernel = ops.MbconvKernel(
        torch.randn(16, 8), torch.randn(16), torch.randn(16, 3, 3), torch.randn(16), torch.randn(8, 16), torch.randn(8)
    )
    folded = {"scale": table, "shift": table, "index_y": index, "index_x": index}
    return {
        "warp": partial(ops.warp, x, field),
        "warp with its affine": partial(ops.warp, x, field, source_index=index, activation="relu", **folded),
        "spade": partial(ops.spade, x, table, table, index, index),
        "mbconv": partial(ops.mbconv, x, ops.pack_mbconv(kernel, torch.float32)),
    }


@torch.inference_mode()
def call_row(name: str, call: Callable[..., Tensor], repeats: int) -> dict[str, object]:
    """Microseconds per call."""
    out, torch_out = torch.empty(1, 1, 1, 8), torch.empty(1, 1, 1, 8)

    def body(replay: ops.Replay) -> None:
        for _ in range(CALLS):
            call(out=out)

    def many(once: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                once()

        return run

    forms = {
        "out= us": many(lambda: call(out=out)),
        "new output us": many(call),
        "replayed us": ops.Replay(body, torch.device("cpu")),
        "PyTorch's relu, out=, us": many(lambda: torch.clamp_min(out, 0.0, out=torch_out)),
    }
    times = timing.measure(forms, repeats, max_seconds=10.0, inner=1)
    return {"op": name} | {form: round(1e3 * times[form]["median_ms"] / CALLS, 2) for form in forms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats: a look, not a result")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = [call_row(name, call, 7 if options.quick else 40) for name, call in smallest().items()]
    columns = list(rows[0])
    print(timing.table(rows, columns))
    if not options.quick:
        notes = [
            "One pixel of eight channels. A call like one before: a key of shapes and numbers, addresses, the kernel.",
            "Replayed: 400 of them in one recording, which is what a frame is made of.",
        ]
        title = "Calling an op on the CPU"
        path = timing.write("calls", {"title": title, "columns": columns, "rows": rows, "notes": notes})
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
