"""The kernels as functions: a file per op and one for the kernel of `conv`, beside their meaning in plain PyTorch.

`fit_face`, `landmark_field`, `slit_cover` and `lay_cover` are on NumPy arrays and need no PyTorch, which takes a second
to load: what a file has is imported at its first use.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastreenact.ops.compose_frame import compose_frame, compose_frame_reference
    from fastreenact.ops.conv import conv, conv_many, conv_reference
    from fastreenact.ops.conv_kernel import Axis, ConvKernel, ConvWeights, pack_conv, plain_kernel, suits_winograd
    from fastreenact.ops.dictionary_read import dictionary_read, dictionary_read_reference
    from fastreenact.ops.fit_face import FaceTerms, fit_face, fit_face_reference
    from fastreenact.ops.grid_sample_3d import grid_sample_3d, grid_sample_3d_reference
    from fastreenact.ops.landmark_covers import landmark_covers
    from fastreenact.ops.landmark_field import LandmarkField, landmark_field, landmark_field_reference
    from fastreenact.ops.landmark_nodes import landmark_nodes
    from fastreenact.ops.landmark_place import landmark_place
    from fastreenact.ops.mbconv import MbconvKernel, MbconvWeights, mbconv, mbconv_reference, pack_mbconv
    from fastreenact.ops.norm_act import norm_act, norm_act_reference
    from fastreenact.ops.rasterize_landmarks import (
        rasterize_landmarks,
        rasterize_landmarks_all,
        rasterize_landmarks_reference,
        rasterize_lines,
    )
    from fastreenact.ops.render_mesh import (
        render_mesh,
        render_mesh_ids,
        render_mesh_ids_reference,
        render_mesh_reference,
    )
    from fastreenact.ops.replay import Replay
    from fastreenact.ops.shrink import shrink, shrink_reference
    from fastreenact.ops.slit_cover import SlitShape, lay_cover, lay_cover_reference, slit_cover, slit_cover_reference
    from fastreenact.ops.spade import spade, spade_reference
    from fastreenact.ops.tail import TailKernel, TailWeights, pack_tail, tail, tail_reference
    from fastreenact.ops.to_frame import to_frame, to_frame_reference
    from fastreenact.ops.warp import warp, warp_reference

_FILES = {
    "compose_frame": "compose_frame compose_frame_reference",
    "conv": "conv conv_many conv_reference",
    "conv_kernel": "Axis ConvKernel ConvWeights pack_conv plain_kernel suits_winograd",
    "dictionary_read": "dictionary_read dictionary_read_reference",
    "fit_face": "FaceTerms fit_face fit_face_reference",
    "grid_sample_3d": "grid_sample_3d grid_sample_3d_reference",
    "landmark_covers": "landmark_covers",
    "landmark_field": "LandmarkField landmark_field landmark_field_reference",
    "landmark_nodes": "landmark_nodes",
    "landmark_place": "landmark_place",
    "mbconv": "MbconvKernel MbconvWeights mbconv mbconv_reference pack_mbconv",
    "norm_act": "norm_act norm_act_reference",
    "rasterize_landmarks": "rasterize_landmarks rasterize_landmarks_all rasterize_landmarks_reference rasterize_lines",
    "render_mesh": "render_mesh render_mesh_ids render_mesh_ids_reference render_mesh_reference",
    "replay": "Replay",
    "shrink": "shrink shrink_reference",
    "slit_cover": "SlitShape lay_cover lay_cover_reference slit_cover slit_cover_reference",
    "spade": "spade spade_reference",
    "tail": "TailKernel TailWeights pack_tail tail tail_reference",
    "to_frame": "to_frame to_frame_reference",
    "warp": "warp warp_reference",
}
_HOME = {name: file for file, names in _FILES.items() for name in names.split()}


class _Package(ModuleType):
    """A file has the name of its function: it is the function that `ops.<name>` means."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'fastreenact.ops' has no attribute '{name}'")
        found = getattr(import_module(f"fastreenact.ops.{_HOME[name]}"), name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted(_HOME)


sys.modules[__name__].__class__ = _Package
