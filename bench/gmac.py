"""Multiplications per frame of Face2Face^rho's online step: the plain networks, and what exact algebra leaves of them.

    python bench/gmac.py [--quick]

Both are counted, not derived: the plain networks by hooks on their convolutions, run without data; the inference form
by what its own layers say they multiply. Bilinear sampling and other element-wise work is in neither.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import timing
import torch
from torch import Tensor, nn

from fastreenact.fuse import layers as fused_layers
from fastreenact.models.face2face_rho.inference import fuse
from fastreenact.models.face2face_rho.networks import motion_input_size, random_face2face_rho

SIZES = (256, 512, 1024, 1440, 2048)
# Kinds of layers, as the inference form names them -> columns of the table: a SPADE layer's tables begin at the pose.
COLUMNS = {
    "pose": "SPADE",
    "spade": "SPADE",
    "pointwise": "1x1",
    "depthwise": "depthwise",
    "tail": "tail",
    "motion": "motion",
}


@dataclass(frozen=True)
class Call:
    """One layer of the online step at work."""

    name: str
    layer: nn.Module
    inputs: tuple[int, ...]  # shape of the first argument
    output: tuple[int, ...]

    @property
    def multiplications(self) -> int:
        """Of a convolution: one for each weight at each pixel that it is applied to."""
        weight: Any = self.layer.weight
        height, width = (self.inputs if isinstance(self.layer, nn.ConvTranspose2d) else self.output)[-2:]
        return int(weight.numel()) * height * width

    @property
    def kind(self) -> str:
        """Of COLUMNS."""
        if self.name.startswith("motion."):
            return "motion"
        if "headpose" in self.name:
            return "pose"
        if "SPADE" in self.name:
            return "spade"
        if "de_up_block3.2" in self.name or "de_conv_block" in self.name:
            return "tail"
        return "pointwise" if getattr(self.layer, "groups", 1) == 1 else "depthwise"


def calls(size: int, kinds: tuple[type[nn.Module], ...]) -> list[Call]:
    """Layers of these kinds, in the order in which a step of the plain networks calls them."""
    model = random_face2face_rho()
    found: list[Call] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda layer, given, out: found.append(Call(name, layer, tuple(given[0].shape), tuple(out.shape)))

    side = motion_input_size(size)
    image, pose = torch.empty(1, 3, size, size, device="meta"), torch.empty(1, 6, device="meta")
    with torch.inference_mode():
        features = model.renderer.to("meta").encode(image, pose)
        for prefix, net in (("motion", model.motion.to("meta")), ("renderer", model.renderer)):
            for name, layer in net.named_modules():
                if isinstance(layer, kinds):
                    layer.register_forward_hook(hook(f"{prefix}.{name}"))
        field = model.motion(*(torch.empty(1, 9, side // k, side // k, device="meta") for k in (16, 8, 4)))[2]
        model.renderer.decode(features, field, pose)
    return found


def plain(size: int) -> dict[str, int]:
    """Kind -> multiplications of the plain networks."""
    counts = dict.fromkeys(COLUMNS, 0)
    for call in calls(size, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        counts[call.kind] += call.multiplications
    return counts


def inference_form(size: int) -> dict[str, int]:
    """Kind -> multiplications of the inference form, without Winograd's algorithm."""
    with mock.patch.object(fused_layers, "WINOGRAD_OUTPUTS", math.inf):
        return fuse(random_face2face_rho(), size).multiplications()


def table_row(size: int, before: dict[str, int], after: dict[str, int]) -> dict[str, Any]:
    """One line of the table, in thousands of millions, "before → after"; ValueError on kinds that are not known."""
    pairs = {column: [0, 0] for column in (*COLUMNS.values(), "all")}
    for i, counts in enumerate((before, after)):
        if set(counts) != set(COLUMNS):
            raise ValueError(f"counts must be of {', '.join(COLUMNS)}, got {', '.join(counts)}")
        for kind, count in counts.items():
            pairs[COLUMNS[kind]][i] += count
            pairs["all"][i] += count
    side = motion_input_size(size)
    cells = {column: f"{a / 1e9:.2f} → {b / 1e9:.2f}" for column, (a, b) in pairs.items()}
    fewer = f"{pairs['all'][0] / pairs['all'][1]:.2f} x"
    return {"size": f"{size}" if side == size else f"{size} (motion at {side})", **cells, "fewer": fewer}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="256 alone; writes nothing")
    quick = arguments.parse_args().quick
    sizes = SIZES[:1] if quick else SIZES
    counts = {size: {"before": plain(size), "after": inference_form(size)} for size in sizes}
    rows = [table_row(size, pair["before"], pair["after"]) for size, pair in counts.items()]
    columns = list(rows[0])
    print(timing.table(rows, columns))
    if quick:
        return
    notes = (
        "Thousands of millions of multiplications in convolutions and matrix products, plain networks → inference "
        "form, motion at the rendering's size. On a CPU Winograd's algorithm leaves even fewer of some 3x3 ones."
    )
    words = {"before": "plain networks", "after": "inference form"}
    points = [
        {"size": size, "networks": words[form], "GMAC": sum(kinds.values()) / 1e9}
        for size, pair in counts.items()
        for form, kinds in pair.items()
    ]
    payload = {"title": "Face2Face^rho, multiplications per frame", "columns": columns, "rows": rows, "notes": notes}
    plot = {"x": "size", "y": "GMAC", "series": "networks", "rows": points}
    timing.write("gmac", payload | {"counts": counts, "plot": plot})


if __name__ == "__main__":
    main()
