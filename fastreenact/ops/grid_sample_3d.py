"""grid_sample_3d: trilinear sampling of channels-last volumes by a grid, summed over the depth where wanted."""

from typing import Any

import torch
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out, named


def grid_sample_3d(
    volume: Tensor,
    grid: Tensor,
    *,
    padding: str = "zeros",
    align_corners: bool = False,
    sum_depth: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Sample `volume` where `grid` points, trilinearly.

    out[n, z, y, x, c] = trilinear(volume[n, :, :, :, c], grid[n, z, y, x]), or with `sum_depth` the sum of that over z

    Args:
        volume: [N, D, H, W, C] float32, bfloat16 or float16 (GPU only), channels contiguous, other strides free.
        grid: [N, d, h, w, 3] float32, (x, y, z) in normalised coordinates along W, H and D. A NaN counts as minus
            infinity; a voxel with an infinite coordinate lies outside.
        padding: what lies outside: "zeros", or "border", which clamps coordinates to the centres of the outer voxels.
        align_corners: -1 and 1 are the centres of the outer voxels; otherwise their outer faces. Of an axis with one
            voxel every finite coordinate is then its centre.
        sum_depth: give the sum over d.
        out: [N, d, h, w, C], or [N, h, w, C] with `sum_depth`, of the dtype of volume to write into, for example a
            channel slice of a wider tensor. It must not overlap the inputs.

    Returns:
        [N, d, h, w, C] or [N, h, w, C] of the dtype of volume: `out` if given. Weights and sums are float32 inside.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device or word that does not fit; an input requires grad.

    Source: MegaPortraits (Drobyshev et al. 2022), Sec. 3.1: the warps of its 96 x 16 x 64 x 64 volumes.
    """
    checks.need_choice("padding", padding, ("zeros", "border"))
    return _GRID_SAMPLE_3D(volume, grid, padding, bool(align_corners), bool(sum_depth), out=out)


def grid_sample_3d_reference(
    volume: Tensor,
    grid: Tensor,
    *,
    padding: str = "zeros",
    align_corners: bool = False,
    sum_depth: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """What `grid_sample_3d` means, in plain PyTorch: any device, float64 too, with gradients."""
    work = torch.float64 if torch.float64 in (volume.dtype, grid.dtype) else torch.float32
    lows, weights = [], []
    for coordinate, size in zip(grid.to(work).flip(-1).unbind(-1), volume.shape[1:4], strict=True):  # z, y, x
        position = coordinate * ((size - 1 if align_corners else size) / 2) + (size - 1) / 2
        # NaN is minus infinity; two voxels outside is as far as infinity, also where all finite ones are at 0
        infinite = torch.where(coordinate.isnan(), -float("inf"), coordinate)
        position = torch.where(coordinate.isfinite(), position, infinite)
        position = position.clamp(0, size - 1) if padding == "border" else position.clamp(-2, size + 1)
        lows.append(position.detach().floor())
        weights.append(position - lows[-1])
    batch = torch.arange(len(volume), device=volume.device).view(-1, 1, 1, 1)
    sampled = volume.new_zeros((*grid.shape[:4], volume.shape[4]), dtype=work)
    for corner in range(8):
        index, weight, inside = [batch], torch.ones_like(weights[0]), torch.ones_like(weights[0], dtype=torch.bool)
        for axis, size in enumerate(volume.shape[1:4]):
            upper = corner >> axis & 1
            at = lows[axis].long() + upper
            inside = inside & (at >= 0) & (at < size)
            index.append(at.clamp(0, size - 1))
            weight = weight * (weights[axis] if upper else 1 - weights[axis])
        # what lies outside is not read: 0 times infinity would be NaN
        sampled = sampled + torch.where(inside[..., None], volume[tuple(index)].to(work) * weight[..., None], 0.0)
    sampled = (sampled.sum(1) if sum_depth else sampled).to(volume.dtype)
    return sampled if out is None else out.copy_(sampled)


def _check(a: Any) -> Out:
    """Raise what `grid_sample_3d` raises for tensors."""
    volume, grid, _, _, sum_depth, out = a
    checks.need_forward_only("grid_sample_3d", volume=volume, grid=grid, out=out)
    checks.need_activation_dtype("volume", volume)
    checks.need_dtype("grid", grid, (torch.float32,))
    checks.need_shape("volume", volume, (None, None, None, None, None), "[N, D, H, W, C]")
    checks.need_channels_last("volume", volume)
    n, *sizes, channels = volume.shape
    checks.need_shape("grid", grid, (n, None, None, None, 3), "[N, d, h, w, 3]")
    checks.need_same_device(volume, grid=grid, out=out)
    if 0 in sizes:
        raise ValueError(f"volume: got shape {list(volume.shape)}, needs at least one voxel along each axis")
    shape = (n, *grid.shape[2 if sum_depth else 1 : 4], channels)
    if out is not None:
        checks.need_dtype("out", out, (volume.dtype,))
        checks.need_shape("out", out, shape, "[N, h, w, C]" if sum_depth else "[N, d, h, w, C]")
        checks.need_writable("out", out)
    return Out(shape)


def _words(a: Any) -> dict[str, Any]:
    return {"border": a.padding == "border", "align_corners": a.align_corners}


def _triton(a: Any) -> None:
    from fastreenact.kernels.grid_sample_3d import grid_sample_3d as launch

    launch(a.volume, a.grid, a.out, **_words(a))


_GRID_SAMPLE_3D = Op(
    grid_sample_3d,
    _check,
    numbers=_words,
    triton=_triton,
    fallback=lambda a: grid_sample_3d_reference(a.volume, a.grid, **named(a, 2)),
)
