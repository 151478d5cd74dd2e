"""The kernels as functions on PyTorch tensors: one op per file, each beside its meaning in plain PyTorch."""

from fastreenact.ops.rasterize_landmarks import rasterize_landmarks, rasterize_landmarks_reference, rasterize_lines
from fastreenact.ops.spade import spade, spade_reference
from fastreenact.ops.to_frame import to_frame, to_frame_reference
from fastreenact.ops.warp import warp, warp_reference

__all__ = [
    "rasterize_landmarks",
    "rasterize_landmarks_reference",
    "rasterize_lines",
    "spade",
    "spade_reference",
    "to_frame",
    "to_frame_reference",
    "warp",
    "warp_reference",
]
