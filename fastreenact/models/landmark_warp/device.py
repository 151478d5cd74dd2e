"""A resident portrait of the landmark warp as `ops.landmark_place` reads it, in the memory of a device."""

import functools
from typing import Any

import numpy as np
from torch import Tensor

from fastreenact.models.landmark_warp import field, grid, head, slits, unfold
from fastreenact.models.landmark_warp.warp import State
from fastreenact.ops.landmark_place import landmark_head


def pack_head(state: State) -> Tensor:
    """uint8 [HEAD_BYTES] on the CPU. It has the addresses of the layers' images, which `state` keeps."""
    made, at, mesh = state.head, state.grid, state.head.mesh
    corners = mesh.triangles.astype(np.int64)
    order = np.argsort(corners.ravel(), kind="stable")  # of each point the corners that it is
    first = np.searchsorted(corners.ravel()[order], np.arange(len(made.controls) + 1))
    height, width = state.image.shape[1:3]
    return landmark_head(
        box=_doubles(state.box.cx, state.box.cy, state.box.size),
        size=_doubles(width, height),
        step=at.step,
        middle=at.middle,
        coarse=at.coarse,
        turn=_doubles(made.turn),
        scale=made.scale,
        unit=made.unit,
        face=_doubles(made.face),
        solid=_doubles(made.solid),
        neck=_doubles(made.neck),
        centre=_doubles(made.centre),
        to_radii=_doubles(made.to_radii),
        reach=np.sqrt((made.outline**2).sum(axis=1)),
        ring=_doubles(made.ring),
        rim=_doubles(made.rim),
        controls=_doubles(made.controls),
        slack=_doubles(made.slack),
        freedom=_doubles(mesh.freedom),
        source_yaw=head.yaw_of(made.turn),
        rooms=_doubles(made.rooms),
        least=_doubles(mesh.least),
        corners=corners,
        first_corner=first.astype(np.int64),
        own_corners=order.astype(np.int64),
        triangles=len(corners),
        ring_points=len(made.ring),
        rim_points=len(made.rim),
        control_points=len(made.controls),
        slits=[_slit(layer, image) for layer, image in state.layers],
        **_shared(len(made.slack) + 3),
    )


def _slit(layer: slits.Layer, image: Tensor) -> dict[str, Any]:
    return {
        "image": image.data_ptr(),
        "height": image.shape[1],
        "width": image.shape[2],
        "x0": layer.x0,
        "y0": layer.y0,
        "is_mouth": layer.part is slits.MOUTH,
        "upper": np.array(layer.part.upper, np.int64),
        "lower": np.array(layer.part.lower, np.int64),
        "anchor": _doubles(layer.anchor),
        "gap": layer.gap,
        "shown": layer.shown,
        "inset": layer.part.inset,
        "soft": layer.part.soft,
    }


@functools.cache
def _shared(unknowns: int) -> dict[str, Any]:
    """What all heads have in common."""
    order, members = field.spline_parts(unknowns)
    cuts = (field.EYE_CUT, field.MOUTH_CUT)
    return {
        "neck_follows": _doubles(head.NECK_FOLLOWS),
        "neck_jaw": _doubles(head.NECK_JAW),
        "rigid": head.RIGID.astype(np.int64),
        "order": order.astype(np.int64),
        "members": _rows(members, 24, np.int64),
        "own": members.shape[1],
        "cut_points": np.array([len(upper) for upper, _ in cuts], np.int64),
        "cut_upper": _rows([upper for upper, _ in cuts], 10, np.int64),
        "cut_lower": _rows([lower for _, lower in cuts], 10, np.int64),
        "cut_blend": _rows((field.EYE_BLEND, field.MOUTH_BLEND), 10, np.float64),
        "cut_beyond": field.BLEND_BEYOND,
        "cut_bridge": field.BRIDGE,
        "parts": np.array((0, *grid.SLITS), np.int64),
        "curve": _doubles(slits.CURVE),
        "rest_radius": field.REST_RADIUS,
        "rest_travel": field.REST_TRAVEL,
        "near": field.NEAR,
        "far_share": field.FAR_SHARE,
        "still": grid.STILL,
        "free": grid.FREE,
        "face_margin": grid.FACE_MARGIN,
        "slit_margin": grid.SLIT_MARGIN,
        "most_yaw": head.MOST_YAW,
        "least_room": head.LEAST_ROOM,
        "longest_step": unfold.LONGEST_STEP,
        "least_weight": unfold.LEAST_WEIGHT,
        "rounds": unfold.ROUNDS,
        "gums": slits.GUMS,
        "raised_share": slits.RAISED,
    }


def _doubles(*values: Any) -> np.ndarray:
    """Contiguous, whatever their shape."""
    return np.ascontiguousarray(np.array(values, np.float64).ravel())


def _rows(rows: Any, length: int, dtype: type) -> np.ndarray:
    """Rows filled up with zeros."""
    found: np.ndarray = np.zeros((len(rows), length), dtype)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    return found
