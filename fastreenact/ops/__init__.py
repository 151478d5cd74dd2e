"""The kernels as functions on PyTorch tensors, a file per op and one for the kernel of `conv`, beside their meaning."""

from fastreenact.ops.compose_frame import compose_frame, compose_frame_reference
from fastreenact.ops.conv import conv, conv_many, conv_reference
from fastreenact.ops.conv_kernel import Axis, ConvKernel, ConvWeights, pack_conv, plain_kernel, suits_winograd
from fastreenact.ops.dictionary_read import dictionary_read, dictionary_read_reference
from fastreenact.ops.grid_sample_3d import grid_sample_3d, grid_sample_3d_reference
from fastreenact.ops.mbconv import MbconvKernel, MbconvWeights, mbconv, mbconv_reference, pack_mbconv
from fastreenact.ops.norm_act import norm_act, norm_act_reference
from fastreenact.ops.rasterize_landmarks import (
    rasterize_landmarks,
    rasterize_landmarks_all,
    rasterize_landmarks_reference,
    rasterize_lines,
)
from fastreenact.ops.render_mesh import render_mesh, render_mesh_ids, render_mesh_ids_reference, render_mesh_reference
from fastreenact.ops.replay import Replay
from fastreenact.ops.shrink import shrink, shrink_reference
from fastreenact.ops.spade import spade, spade_reference
from fastreenact.ops.tail import TailKernel, TailWeights, pack_tail, tail, tail_reference
from fastreenact.ops.to_frame import to_frame, to_frame_reference
from fastreenact.ops.warp import warp, warp_reference

__all__ = [
    "Axis",
    "ConvKernel",
    "ConvWeights",
    "MbconvKernel",
    "MbconvWeights",
    "Replay",
    "TailKernel",
    "TailWeights",
    "compose_frame",
    "compose_frame_reference",
    "conv",
    "conv_many",
    "conv_reference",
    "dictionary_read",
    "dictionary_read_reference",
    "grid_sample_3d",
    "grid_sample_3d_reference",
    "mbconv",
    "mbconv_reference",
    "norm_act",
    "norm_act_reference",
    "pack_conv",
    "pack_mbconv",
    "pack_tail",
    "plain_kernel",
    "rasterize_landmarks",
    "rasterize_landmarks_all",
    "rasterize_landmarks_reference",
    "rasterize_lines",
    "render_mesh",
    "render_mesh_ids",
    "render_mesh_ids_reference",
    "render_mesh_reference",
    "shrink",
    "shrink_reference",
    "spade",
    "spade_reference",
    "suits_winograd",
    "tail",
    "tail_reference",
    "to_frame",
    "to_frame_reference",
    "warp",
    "warp_reference",
]
