"""conv: blocks of the motion network and tables of SPADE layers, against PyTorch, eager and compiled.

python bench/conv.py [--quick] [--device cuda] [--no-compile]
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.fuse import algebra
from fastreenact.fuse.layers import ConvLayer, SpadeLayer, make_tables
from fastreenact.models.blocks import DownBlock, ResidualBlock, UpBlock, resize_nearest
from fastreenact.models.face2face_rho.networks import motion_input_size, random_face2face_rho

# Blocks of the motion network, and what part of M the side of their input is; SPADE layers, and what part of S.
BLOCKS = {"f1_model.4": 32, "model1_2.2": 32, "model2_2.5": 16, "model2_2.7": 4}
SPADES = {"de_SPADE_2": 16, "de_SPADE_4": 4}


def half_residual(block: Any, x: Tensor) -> Tensor:
    """The first half of a residual block."""
    return F.relu(block.norm(block.conv1(x)))


def layer_of(block: Any, side: int, like: Tensor) -> tuple[ConvLayer, str, Callable[[Any, Tensor], Tensor]]:
    """Ours for an input of side x side, what it is called, and the same in PyTorch: (block, x) -> y."""
    if isinstance(block, DownBlock):
        kernel, out, what = algebra.convolution(block.conv, block.norm), side // 2, "4x4 by 2"
    elif isinstance(block, UpBlock):
        kernel, out, what = algebra.upsampled(block.conv, block.norm), side * 2, "doubled, 3x3"
    else:
        kernel, out, what = algebra.convolution(block.conv1, block.norm), side, "3x3"
    layer = ConvLayer(kernel, like, out, out, activation="relu")
    channels_in, channels_out = kernel.channels
    plain = half_residual if isinstance(block, ResidualBlock) else lambda block, x: block(x)
    return layer, f"{what}, {channels_in} - {channels_out}, {side} x {side}", plain


def block_case(block: Any, side: int, dtype: torch.dtype, device: str) -> timing.Case:
    """One convolution of the motion network with BatchNorm and ReLU."""
    layer, name, plain = layer_of(block, side, torch.empty(0, dtype=dtype, device=device))
    channels = layer.weights.spec[0]
    moved = (side**2 * channels + layer.out.numel() + layer.weights.packed.numel()) * dtype.itemsize
    take = timing.rotate(lambda: torch.randn(1, side, side, channels, device=device).to(dtype), moved)
    here, exact = copy.deepcopy(block).to(device, dtype), copy.deepcopy(block).to(device, torch.float64)
    x = take()
    expected = plain(exact, x.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    timing.need_close(f"{name} {dtype}", layer(x), expected, slack=3)
    case = {"what": name, "dtype": str(dtype).removeprefix("torch.")}
    eager = partial(_eager, plain, here)
    return timing.Case(case, lambda: layer(take()), eager, lambda: (take(),), moved, layer.multiplications())


def _eager(plain: Callable[[Any, Tensor], Tensor], block: Any, x: Tensor) -> Tensor:
    return plain(block, x.permute(0, 3, 1, 2))


def spade_case(spade: Any, side: int, dtype: torch.dtype, device: str) -> timing.Case:
    """The tables of a SPADE layer from the pose map; in PyTorch gamma and beta of every pixel."""
    layer = SpadeLayer(spade, side, torch.empty(0, dtype=dtype, device=device))
    packed = layer.first.weights.packed.numel() + layer.second.weights.packed.numel()
    moved = (layer.second.out.numel() + packed) * dtype.itemsize
    take = timing.rotate(lambda: torch.randn(1, 16, 16, 32, device=device), moved)
    take_short = timing.rotate(lambda: torch.randn(1, 16, 16, 32, device=device).to(dtype), moved)
    here, exact = copy.deepcopy(spade).to(device, dtype), copy.deepcopy(spade).to(device, torch.float64)

    def eager(condition: Tensor) -> Tensor:
        hidden = here.mlp_shared(resize_nearest(condition.permute(0, 3, 1, 2), side, side))
        return torch.cat([here.mlp_gamma(hidden), here.mlp_beta(hidden)], 1)

    name, condition = f"SPADE tables, {layer.channels}, {side} x {side}", take()
    x = torch.randn(1, side, side, layer.channels, device=device).to(dtype)
    make_tables([layer], condition)
    expected = exact(x.double().permute(0, 3, 1, 2), condition.double().permute(0, 3, 1, 2)).relu()
    timing.need_close(f"{name} {dtype}", layer.apply(x), expected.permute(0, 2, 3, 1), slack=3)
    case, count = {"what": name, "dtype": str(dtype).removeprefix("torch.")}, layer.multiplications()
    return timing.Case(case, lambda: make_tables([layer], take()), eager, lambda: (take_short(),), moved, count)


def cases(sizes: tuple[int, ...], device: str) -> Iterator[timing.Case]:
    """Blocks and SPADE layers at these sizes of the picture."""
    model = random_face2face_rho()
    motion, renderer = model.motion.requires_grad_(False), model.renderer.requires_grad_(False)
    for size in sizes:
        for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16):
            for name, part in BLOCKS.items():
                yield block_case(motion.get_submodule(name), motion_input_size(size) // part, dtype, device)
            for name, part in SPADES.items():
                yield spade_case(renderer.get_submodule(name), -(-size // part), dtype, device)


@torch.inference_mode()
def main() -> None:
    options = timing.arguments(__doc__)
    device = options.device
    torch.manual_seed(0)
    copy_rate = timing.copy_gb_per_s(device)
    rows = timing.rows(cases((256,) if options.quick else (256, 512, 1440), device), options, copy_rate)
    notes = (
        "Side: of the input; of the map for SPADE, whose tables do not grow beyond 80 px. Eager: the plain block with "
        "BatchNorm and ReLU, channels-last; gamma and beta at full size. GMAC: what ours multiplies. "
        f"MB: input, output, weights once; the copy moves {copy_rate:.0f} GB/s."
    )
    timing.report("conv", f"conv on the {device.upper()}", ["what", "dtype"], rows, [notes], options)


if __name__ == "__main__":
    main()
