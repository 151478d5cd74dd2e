"""Multiplications per frame of Face2Face^rho's online step: the plain networks, and what exact algebra leaves of them.

    python bench/gmac.py

Both are counted, not derived: the plain networks by hooks on their convolutions, run without data; the inference form
by what its own layers say they multiply. Bilinear sampling and other element-wise work is in neither.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timing
import torch
from torch import Tensor, nn

from fastreenact.models.face2face_rho import Face2FaceRho, motion_input_size, random_face2face_rho
from fastreenact.models.fuse_face2face_rho import fuse

SIZES = (256, 512, 1024, 1440, 2048)
# What each kind of layer is part of, in the order of the table.
COLUMNS = ("SPADE", "1x1", "depthwise", "tail", "motion")


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
    def column(self) -> str:
        """The part of the network that it belongs to."""
        if self.name.startswith("motion."):
            return "motion"
        if "SPADE" in self.name or "headpose" in self.name:
            return "SPADE"
        if "de_up_block3.2" in self.name or "de_conv_block" in self.name:
            return "tail"
        return "1x1" if getattr(self.layer, "groups", 1) == 1 else "depthwise"


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
    """Column -> multiplications of the plain networks."""
    counts = dict.fromkeys(COLUMNS, 0)
    for call in calls(size, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        counts[call.column] += call.multiplications
    return counts


def table_row(size: int, before: dict[str, int], after: dict[str, int]) -> list[str]:
    """One line of the table, in thousands of millions, "before -> after"; raises ValueError on unknown columns."""
    for counts in (before, after):
        if set(counts) != set(COLUMNS):
            raise ValueError(f"counts must be of {', '.join(COLUMNS)}, got {', '.join(counts)}")
    pairs = [(before[column], after[column]) for column in COLUMNS]
    pairs.append((sum(before.values()), sum(after.values())))
    side = motion_input_size(size)
    first = f"{size}" if side == size else f"{size} (motion at {side})"
    return [first, *(f"{a / 1e9:.2f} → {b / 1e9:.2f}" for a, b in pairs), f"{pairs[-1][0] / pairs[-1][1]:.2f} x"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    model: Face2FaceRho = random_face2face_rho()
    counts = {size: {"before": plain(size), "after": fuse(model, size).multiplications()} for size in SIZES}
    rows = [table_row(size, pair["before"], pair["after"]) for size, pair in counts.items()]
    columns = ["size", *COLUMNS, "all", "fewer"]
    print(timing.table(rows, columns))
    notes = (
        "Thousands of millions of multiplications in convolutions and matrix products, plain networks → inference "
        "form, motion at the rendering's size."
    )
    payload = {"title": "Face2Face^rho, multiplications per frame", "columns": columns, "rows": rows, "notes": notes}
    timing.write("gmac", payload | {"counts": counts})


if __name__ == "__main__":
    main()
