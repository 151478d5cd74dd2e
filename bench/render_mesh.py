"""render_mesh: pictures a second of a closed mesh the size of a head, on all threads and on one.

    python bench/render_mesh.py [--quick]

There is no other rasterizer here to compare with: the table has the time of each step instead.
"""

import argparse
from collections.abc import Callable
from typing import Any

import timing
import torch
from torch import Tensor

from fastreenact import _C, ops

BATCH = 16
CHANNELS = 8


def egg(size: int, rings: int) -> tuple[Tensor, Tensor]:
    """An ellipsoid that covers half a picture, 2 * rings^2 triangles (counter-clockwise outside), moved at random."""
    around = torch.arange(rings) * (2 * torch.pi / rings)
    down = torch.linspace(0, torch.pi, rings + 1)[:, None]
    points = (
        torch.stack(
            [down.sin() * around.cos() * 0.35, -(down.cos() * 0.45).expand(-1, rings), down.sin() * around.sin() * 0.4],
            2,
        ).view(1, -1, 3)
        * size
    )
    places = torch.tensor([size / 2, size / 2, 0.0]) + torch.randn(BATCH, 1, 3) * 0.01 * size
    i, j = torch.meshgrid(torch.arange(rings), torch.arange(rings), indexing="ij")
    a, b = i * rings + j, i * rings + (j + 1) % rings
    c, d = a + rings, b + rings
    triangles = torch.cat([torch.stack(corners, 2).view(-1, 3) for corners in ((a, b, c), (b, d, c))])
    return (points + places).contiguous(), triangles.int()


def check() -> None:
    """SystemExit unless a small picture is close to the reference."""
    vertices, triangles = egg(24, 8)
    vertices = vertices[:2].contiguous()
    values, behind = torch.randn(vertices.shape[1], CHANNELS), torch.randn(24, 24, CHANNELS)
    got = ops.render_mesh(vertices, triangles, values, (24, 24), background=behind)
    expected = ops.render_mesh_reference(vertices, triangles, values, (24, 24), background=behind)
    for name, mine, right in zip(("image", "alpha"), got, expected, strict=True):
        timing.need_close(name, mine, right)


def rates(function: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Pictures a second on all threads and on one, and the milliseconds of a batch."""
    threads = _C.num_threads()
    result: dict[str, Any] = {}
    try:
        for count in dict.fromkeys((threads, 1)):
            _C.set_num_threads(count)
            times = timing.measure({"ours": function}, repeats, max_seconds=2.0)["ours"]
            if count == threads:
                result["batch ms"] = times["median_ms"]
                result["p20 - p80"] = f"{times['p20_ms']:.3g} - {times['p80_ms']:.3g}"
                result["pictures a second"] = round(BATCH / times["median_ms"] * 1e3)
            if count == 1:
                result["on one thread"] = round(BATCH / times["median_ms"] * 1e3)
    finally:
        _C.set_num_threads(threads)
    return result


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, few repeats: a look, not a result")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    check()
    rows = []
    for size, rings in ((256, 50),) if quick else ((128, 50), (256, 50), (256, 100), (512, 50)):
        vertices, triangles = egg(size, rings)
        values, behind = torch.rand(vertices.shape[1], CHANNELS), torch.rand(size, size, CHANNELS)
        out = torch.zeros(BATCH, size, size, CHANNELS), torch.zeros(BATCH, size, size)

        def draw(
            supersample: int,
            mesh: tuple[Any, ...] = (vertices, triangles, values, (size, size)),
            background: Tensor = behind,
            out: tuple[Tensor, Tensor] = out,
        ) -> object:
            return ops.render_mesh(*mesh, background=background, supersample=supersample, cull=True, out=out)

        def find(mesh: tuple[Any, ...] = (vertices, triangles, (size, size))) -> object:
            return ops.render_mesh_ids(*mesh, cull=True)

        case = {"size": f"{size} x {size}", "triangles": len(triangles)}
        for samples in (2,) if quick else (1, 2, 4):
            what = f"{CHANNELS} attributes, {samples} x {samples} samples a pixel"
            rows.append({**case, "what": what, **rates(lambda draw=draw, s=samples: draw(s), 9 if quick else 25)})
        rows.append({**case, "what": "ids and weights", **rates(find, 9 if quick else 25)})
    columns = ["size", "triangles", "what", "batch ms", "p20 - p80", "pictures a second", "on one thread"]
    notes = [
        f"Batches of {BATCH}, half of each picture covered, back faces left out, over a background, no allocation."
    ]
    print(timing.table(rows, columns))
    payload = {"title": "render_mesh on the CPU", "columns": columns, "rows": rows, "notes": notes}
    print(f"wrote {timing.write('render_mesh', payload)}")


if __name__ == "__main__":
    main()
