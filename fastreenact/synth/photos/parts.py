"""Colours for eyes, teeth and mouth of a photographed head: the photograph's where it shows them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.keypoints import MIRROR
from fastreenact.face.morphable.expressions import smoothstep
from fastreenact.face.morphable.model import default_model
from fastreenact.face.source import SourceFace
from fastreenact.rotation import rotation_matrix
from fastreenact.synth.heads.look import eye_colours, linear, teeth_colours
from fastreenact.synth.heads.mesh import LOWER_LID, UPPER_LID, inside, spline, surface
from fastreenact.synth.heads.parts import EYE_RADIUS, IRIS, eye_centres, parts
from fastreenact.synth.heads.render import eye_size

Array = NDArray[np.floating[Any]]
Lines = tuple[tuple[int, ...], tuple[int, ...]]


def _other_side(lines: Lines) -> Lines:
    upper, lower = (tuple(int(MIRROR[k]) for k in line) for line in lines)
    return upper, lower


_LIDS = ((UPPER_LID, LOWER_LID), _other_side((UPPER_LID, LOWER_LID)))  # image left first
_LIPS = ((55, 56, 63, 61, 60), (55, 67, 70, 64, 60))  # the inner edges
_OPENING = 0.85  # share of an opening between lids or lips that surely shows what lies behind
_LEAST_SEEN = 90  # of the 312 vertices of an eye, for the photograph to say what it looks like
_LEAST_OF_RING = 3
_MOST_TURNED = 0.7  # sine of the angle between eye and camera
_WHITE = np.array((0.8, 0.76, 0.73))  # of an eye in a well lit portrait
_LIT_SKIN = np.array((0.85, 0.65, 0.55))
_IRIS_COLOUR, _ENAMEL = np.array((0.3, 0.2, 0.13)), np.array((0.9, 0.87, 0.8))


def part_colours(picture: NDArray[np.uint8], at: Array, face: SourceFace, to_picture: float) -> NDArray[np.float32]:
    """Colours [V, 3], 0..1, of the vertices of eyes and mouth; 0 for the skin's.

    Args:
        picture: uint8 [C, C, 3], the photograph around the box.
        at: [V, 2] px of the picture, where the vertices are in the photograph.
        to_picture: half the side of the box, px of the picture.
    """
    p = parts()
    tracked = face.tracked * to_picture + len(picture) / 2
    colours = np.zeros((len(at), 3))
    photographed = _pick(picture, at)
    seen = {}
    for name, lids in zip(("left_eye", "right_eye"), _LIDS, strict=True):
        here = p.where[name]
        shown = _behind(at[here], tracked, lids) & (p.across[name][:, 0] < 1.1)
        if shown.sum() >= _LEAST_SEEN:
            seen[name] = _rings(photographed[here], shown, p.across[name])
    face_colour = np.quantile(photographed[p.where["skin"]][surface().regions["face"] > 0.9], 0.7, axis=0)
    light = _light(face_colour, [colour[_is_white(p.across[name][:, 0])] for name, colour in seen.items()])
    for name, other in (("left_eye", "right_eye"), ("right_eye", "left_eye")):
        drawn = np.sqrt(eye_colours(p.across[name], linear(_IRIS_COLOUR), np.random.default_rng(0))) * light
        colours[p.where[name]] = seen.get(name, seen.get(other, drawn))
    depth = p.across["mouth"][:, :1]
    colours[p.where["mouth"]] = np.array((0.5, 0.2, 0.19)) * light * np.sqrt(1 - 0.93 * smoothstep(depth, 0.0, 0.8))
    colours[p.where["tongue"]] = np.array((0.55, 0.28, 0.28)) * light
    for name in ("upper_teeth", "lower_teeth"):
        here = p.where[name]
        teeth = np.sqrt(teeth_colours(p.across[name], linear(_ENAMEL), name == "upper_teeth"))
        drawn = 0.9 * light * (teeth + (_ENAMEL - teeth) * 0.4)  # gaps are hardly seen in a portrait
        shown = _behind(at[here], tracked, _LIPS) & (photographed[here].mean(1) > 0.6 * drawn.mean(1).max())
        colours[here] = np.where(shown[:, None], photographed[here], drawn)
    return np.clip(colours, 0, 1).astype(np.float32)


def _is_white(polar: Array) -> NDArray[np.bool_]:
    return np.asarray((polar > IRIS + 0.1) & (polar < 0.9))


def _light(skin: Array, whites: list[Array]) -> Array:
    """Colour [3] of the light, 1 in a well lit portrait, by the skin's colour [3] and the whites [P, 3] of the eyes."""
    by_skin = 0.8 * skin / _LIT_SKIN
    tint = np.quantile(np.concatenate([*whites, _WHITE[None] * by_skin]), 0.6, axis=0) * 1.1 / _WHITE
    # Lids shade the white of an eye, and it may be red; skin may be dark.
    return np.asarray(np.clip(tint / tint.mean(), 0.8, 1.2) * np.clip(max(tint.mean(), by_skin.mean()), 0.3, 1.1))


def gaze_of(face: SourceFace, irises: Array) -> NDArray[np.float64]:
    """Rotations [2, 3, 3] of the eyes, in the head's axes, that bring them to where a photograph shows their irises.

    Args:
        irises: [2, 2] px, image left first.
    """
    calm = default_model().points(face.shape, np.zeros_like(face.expression))
    turn = rotation_matrix(face.pose[:3])
    turns = []
    for side, centre in enumerate(eye_centres(calm) @ turn.T):
        upper, lower = _LIDS[side]
        off = (face.tracked - face.keypoints)[[*upper, *lower]].mean(axis=0)
        place = (face.box.normalise(irises[side]) - off - face.pose[3:5]) / face.pose[5] * (1, -1)
        across = (place - centre[:2]) / (EYE_RADIUS * eye_size(calm, side))
        across *= min(1.0, _MOST_TURNED / max(float(np.hypot(*across)), 1e-6))
        x, y, z = turn.T @ (*across, np.sqrt(1 - (across**2).sum()))
        turns.append(rotation_matrix((0, np.arctan2(x, z), 0)) @ rotation_matrix((-np.arcsin(y), 0, 0)))
    return np.array(turns)


def _pick(picture: NDArray[np.uint8], at: Array) -> NDArray[np.float64]:
    """[N, 3] in 0..1 of the pixels at [N, 2]."""
    column, row = np.clip(at.astype(int), 0, len(picture) - 1).T
    return np.asarray(picture[row, column] / 255.0)


def _behind(at: Array, tracked: Array, lines: Lines) -> NDArray[np.bool_]:
    """Whether points [N, 2] are seen through the opening between two lines of keypoints."""
    upper, lower = (spline(line, 4) @ tracked for line in lines)
    middle = (upper + lower) / 2
    outline = np.concatenate([middle + _OPENING * (upper - middle), (middle + _OPENING * (lower - middle))[::-1]])
    return inside(np.asarray(at, np.float64), outline)


def _rings(colour: NDArray[np.float64], shown: NDArray[np.bool_], across: Array) -> NDArray[np.float64]:
    """An eye's colours [v, 3], those hidden by lids taken from the same distance to the pupil, or from nearer to it."""
    filled = np.empty_like(colour)
    last: NDArray[np.float64] = colour[shown].mean(axis=0)
    for polar in np.unique(across[:, 0]):
        ring = across[:, 0] == polar
        known = ring & shown
        if known.sum() >= _LEAST_OF_RING:
            angles = across[ring, 1], across[known, 1]
            last = np.stack([np.interp(*angles, colour[known, c], period=2 * np.pi) for c in range(3)], axis=1)
        filled[ring] = last
    return filled
