"""Generated heads: pictures of people who do not exist, with everything known that a tracker would have to guess.

Seeds reproduce: a person is a seed, a shot (light, background, camera) is a seed, and `render` draws nothing else.
"""

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fastreenact.face.keypoints import COUNT
from fastreenact.face.morphable.model import EXPRESSION_NAMES, IDENTITY_MODES, default_model
from fastreenact.ops.render_mesh import render_mesh, render_mesh_ids
from fastreenact.rotation import rotation_matrix
from fastreenact.synth.heads.backdrop import background
from fastreenact.synth.heads.light import openness, shade
from fastreenact.synth.heads.look import Look, person_look
from fastreenact.synth.heads.parts import EYE_RADIUS, eye_centres, parts
from fastreenact.synth.heads.scene import Scene, make_scene, photograph, texture_for
from fastreenact.synth.heads.skin import skin_uv, wrinkled

Array = NDArray[np.float32]
_GAZE = {name: EXPRESSION_NAMES.index(name) for name in EXPRESSION_NAMES if name.startswith("eyeLook")}
_GAZE_RAD = 0.55  # turn of an eye at a coefficient of 1
_HIDDEN = 0.02  # model units: what lies deeper than this behind the nearest surface is hidden
_PITCH = 0.06  # rad, as people look into a camera: 2.3 degrees in fits of four clips, 8 in those of four paintings
_STILL = 0.004  # model units: less than a quarter of a pixel at 256
_NEAR_FACE = 0.3  # share of a pixel that has to show the face


class Mesh(NamedTuple):
    """What a person's frames have in common."""

    calm: Tensor  # [v, 3] without expression, model units
    moving: Tensor  # [m] vertices that expressions move
    follow: Tensor  # [m, 72]
    turns: Tensor  # [v, 1]
    behind: Tensor  # [v]


class Person(NamedTuple):
    """Who is seen: made by `make_person`."""

    seed: int
    shape: Array  # [50] coefficients of the morphable model
    look: Look
    mesh: Mesh


class Rendered(NamedTuple):
    """A picture and what is true of it."""

    image: NDArray[np.uint8]  # [S, S, 3] RGB
    keypoints: Array  # [72, 2] normalised, -1 and 1 at the edges
    pose: Array  # [6] rx, ry, rz, tx, ty, scale
    expression: Array  # [51]
    mask: NDArray[np.bool_]  # [S, S] the face, from the forehead to the chin and from ear to ear


class Flow(NamedTuple):
    """Where each pixel of one frame is seen in another."""

    field: Array  # [S, S, 2] normalised (align_corners=False); NaN where there is no head
    visible: NDArray[np.bool_]  # [S, S] the point is seen in the other frame, too
    behind: NDArray[np.bool_]  # [S, S] neither frame shows a head there: both show the same background


def make_person(seed: int) -> Person:
    """A person, decided by `seed`: coefficients about as people differ, and looks."""
    rng = np.random.default_rng((seed, 1))
    shape = np.clip(rng.normal(0, 0.8, IDENTITY_MODES), -2.2, 2.2).astype(np.float32)
    look = person_look(rng, openness().numpy())
    return Person(seed, shape, look, _mesh(shape, look))


def random_pose(rng: np.random.Generator, spread: float = 1.0) -> Array:
    """A pose [6] as in portraits and conversation: mostly frontal, yaw to 50 degrees, roughly centred as crops are."""
    turn = rng.normal((_PITCH, 0.0, 0.0), np.array((0.13, 0.3, 0.1)) * spread)
    place = rng.normal(0, (0.05, 0.04))
    return np.array(
        [
            *np.clip(turn, (-0.5, -0.9, -0.5), (0.5, 0.9, 0.5)),
            place[0],
            place[1] + 0.1,
            np.clip(rng.normal(0.45, 0.03), 0.36, 0.54),
        ],
        np.float32,
    )


def random_expression(rng: np.random.Generator, strength: float = 1.0) -> Array:
    """An expression [51]: a few modes at random, mostly alike on both sides, with blinks, gaze and speech."""
    at = {name: i for i, name in enumerate(EXPRESSION_NAMES)}
    e = np.zeros(len(at))
    for name, i in at.items():
        if rng.random() < 0.09 and not name.startswith(("eyeLook", "eyeBlink", "mouthClose")):
            e[i] = rng.beta(1.2, 2.8)
    for name, i in at.items():
        if name.endswith("Left") and rng.random() < 0.8 and name not in ("jawLeft", "mouthLeft"):
            e[at[name[:-4] + "Right"]] = e[i]
    if rng.random() < 0.55:
        e[at["jawOpen"]] = rng.beta(1.2, 2.2)
    if rng.random() < 0.35:
        e[[at["mouthSmileLeft"], at["mouthSmileRight"]]] = rng.beta(2, 2)
    blink = rng.beta(0.5, 2.5) if rng.random() < 0.5 else 1.0 * (rng.random() < 0.3)
    e[[at["eyeBlinkLeft"], at["eyeBlinkRight"]]] = blink
    side, up = rng.normal(0, 0.35, 2)
    for name in ("eyeLookOutLeft", "eyeLookInRight") if side > 0 else ("eyeLookInLeft", "eyeLookOutRight"):
        e[at[name]] = min(abs(side), 1.0)
    for eye in ("Left", "Right"):
        e[at[("eyeLookUp" if up > 0 else "eyeLookDown") + eye]] = min(abs(up), 1.0)
    return np.clip(e * strength, 0, 1).astype(np.float32)


def gaze_rotations(expression: Array) -> NDArray[np.float64]:
    """Rotations [2, 3, 3] of the eyes, image left (the subject's right) first."""
    turns = []
    for side, inwards in (("Right", 1.0), ("Left", -1.0)):
        look = {name: expression[_GAZE[f"eyeLook{name}{side}"]] for name in ("In", "Out", "Up", "Down")}
        yaw = inwards * (look["In"] - look["Out"])
        turns.append((_GAZE_RAD * (look["Down"] - look["Up"]) * 0.7, _GAZE_RAD * yaw, 0.0))
    return rotation_matrix(np.array(turns))


@functools.cache
def _moves() -> NDArray[np.bool_]:
    """[V] whether expressions move a vertex."""
    modes = np.swapaxes(default_model().expression_basis, 1, 2).reshape(-1, COUNT).astype(np.float64)
    return np.asarray(np.abs(parts().follow @ modes.T).max(axis=1) > _STILL)


def _mesh(shape: Array, look: Look) -> Mesh:
    model, p, kept = default_model(), parts(), look.kept
    calm = model.points(shape, np.zeros(len(EXPRESSION_NAMES), np.float32)) - model.mean
    x = look.rest + p.follow32[kept] @ calm
    moving = np.flatnonzero(_moves()[kept])
    return Mesh(
        torch.from_numpy(x),
        torch.from_numpy(moving),
        torch.from_numpy(p.follow32[kept[moving]]),
        torch.from_numpy(p.turns[kept, None].astype(np.float32)),
        torch.from_numpy(p.behind[kept].astype(np.float32)),
    )


def _pose_mesh(person: Person, pose: Array, expression: Array, body_turn: float) -> tuple[Tensor, Tensor, Array]:
    """Vertices [v, 3] and ways of the hair [v, 3] in camera axes (model units, before scale and translation); the
    keypoints [72, 2], normalised."""
    model, p, mesh = default_model(), parts(), person.mesh
    calm = model.points(person.shape, np.zeros(len(EXPRESSION_NAMES), np.float32))
    points = model.points(person.shape, expression)
    x = mesh.calm.clone()
    x[mesh.moving] += mesh.follow @ torch.from_numpy(points - calm)
    for side, (name, turn) in enumerate(zip(("left_eye", "right_eye"), gaze_rotations(expression), strict=True)):
        centre = eye_centres(calm)[side]
        ball = person.look.rest[p.where[name]] - eye_centres(model.mean)[side]
        x[p.where[name]] = torch.from_numpy((ball @ turn.T * eye_size(calm, side) + centre).astype(np.float32))
    head = torch.from_numpy(rotation_matrix(pose[:3]).astype(np.float32))
    body = torch.from_numpy(rotation_matrix(pose[:3] * body_turn).astype(np.float32))
    x = mesh.turns * (x @ head.T) + (1 - mesh.turns) * (x @ body.T)
    return x, torch.from_numpy(person.look.tangent) @ head.T, model.project(person.shape, expression, pose)


def eye_size(points: Array, side: int) -> float:
    """The eyeball against that of the mean face: as wide as the eye."""
    a, b = ((36, 40), (44, 48))[side]
    return float(np.clip(np.linalg.norm(points[a] - points[b]) * 0.54 / EYE_RADIUS, 0.8, 1.3))


def _pixels(person: Person, x: Tensor, pose: Array, size: int, scene: Scene) -> Tensor:
    """Vertices [1, v, 3] as the rasterizer takes them: pixels, depth with what is hidden under skin farther away.

    The shoulders go part of the head's way, and are never far from it.
    """
    away = np.clip(scene.body_place - pose[3:], (-0.12, -0.12, -0.1 * pose[5]), (0.12, 0.12, 0.1 * pose[5]))
    stays = torch.from_numpy(((1 - scene.body_follow) * away).astype(np.float32))
    place = torch.from_numpy(pose[3:]) + (1 - person.mesh.turns) * stays  # [v, 3]
    scale = place[:, 2:] * (size / 2)
    px = x * scale * torch.tensor([1.0, -1.0, 1.0])
    px[:, :2] += (place[:, :2] + 1) * (size / 2)
    px[:, 2] -= person.mesh.behind * scale[:, 0]
    return px[None].contiguous()


def render(person: Person, pose: Any, expression: Any, size: int, seed: int) -> Rendered:
    """A picture of a person.

    Args:
        person: from `make_person`.
        pose: [6] float: rx, ry, rz in rad, tx, ty, scale in normalised units.
        expression: [51] float, 0..1; the eyeLook modes turn the eyes.
        size: side of the picture in px.
        seed: of the shot: light, background, camera. The same for the frames of a pair. Noise differs between frames.

    Returns:
        The picture and what is true of it.

    Raises:
        ValueError: a shape that is not as above, a value that is not finite, or a size under 16.
    """
    pose, expression = _checked("pose", pose, 6), _checked("expression", expression, len(EXPRESSION_NAMES))
    _need_size(size)
    scene = make_scene(seed)
    x, turned, keypoints = _pose_mesh(person, pose, expression, scene.body_turn)
    attributes = _attributes(scene, person.look, x, turned)
    drawn, alpha = render_mesh(_pixels(person, x, pose, size, scene), person.look.triangles, attributes, (size, size))
    drawn, alpha = drawn[0], alpha[0, ..., None]
    picture = _colours(scene, person.look, drawn, alpha, expression, 2 / (size * float(pose[5])))
    picture += (1 - alpha) * background(seed, size)
    rng = np.random.default_rng((seed, 5, zlib.crc32(pose.tobytes() + expression.tobytes())))
    mask = (drawn[..., 14] > _NEAR_FACE).numpy()
    picture *= scene.exposure
    return Rendered(photograph(scene, picture.numpy(), rng), keypoints, pose, expression, mask)


@functools.cache
def _skin_share() -> Tensor:
    """[V, 3]: place in the picture of the skin, and 1, where the skin of the face is; 0 elsewhere."""
    p = parts()
    share = np.zeros((len(p.rest), 3), np.float32)
    where = p.where["skin"]
    share[where] = np.column_stack([skin_uv(p.across["skin"]), np.ones(where.stop - where.start)])
    return torch.from_numpy(share)


def _attributes(scene: Scene, look: Look, x: Tensor, tangents: Tensor) -> Tensor:
    """[V, 15] what is drawn: colour of all but the face's skin, light on that, its place in its picture and share,
    place and strengths of the fine texture, share of the face."""
    light, shine = shade(scene, look, x, tangents)
    place = _skin_share()[torch.from_numpy(look.kept)]
    is_skin = place[:, 2:]
    colour = torch.from_numpy(look.albedo) * light * (1 - is_skin) + shine
    return torch.cat(
        [colour, light * is_skin, place, torch.from_numpy(look.texture), torch.from_numpy(look.face)[:, None]], 1
    )


def _colours(scene: Scene, look: Look, drawn: Tensor, alpha: Tensor, expression: Array, pixel: float) -> Tensor:
    """Linear light [S, S, 3] of what is drawn, times its share of the pixels; `pixel` in model units."""
    uv = (drawn[..., 9:11] / alpha.clamp_min(1e-3)).frac_() * 2 - 1
    grain = functional.grid_sample(
        texture_for(scene.texture, pixel), uv[None], align_corners=False, padding_mode="border"
    )[0].permute(1, 2, 0)
    detail = 1 + ((grain * drawn[..., 11:14]).sum(-1, keepdim=True) / alpha.clamp_min(1e-3))
    at = drawn[..., 6:8] / drawn[..., 8:9].clamp_min(1e-3)
    skin = functional.grid_sample(
        wrinkled(look.skin, look.wrinkles, expression)[None], at[None], align_corners=False, padding_mode="border"
    )[0].permute(1, 2, 0)
    return (drawn[..., :3] + drawn[..., 3:6] * skin) * detail.clamp(0.15, 2.5)


def flow(person: Person, seen: Rendered, other: Rendered, seed: int) -> Flow:
    """Where each pixel of `seen` lies in `other`: sampling `other` there gives `seen`, light apart.

    Args:
        person, seed: with which both were rendered, at the same size.

    Returns:
        The field, and where both frames show the point.

    Raises:
        ValueError: frames of different sizes.
    """
    if seen.image.shape != other.image.shape:
        raise ValueError(f"other: got size {other.image.shape[0]}, need that of `seen`, {seen.image.shape[0]}")
    size, triangles = len(seen.image), person.look.triangles
    scene = make_scene(seed)
    here, there = (
        _pixels(person, _pose_mesh(person, r.pose, r.expression, scene.body_turn)[0], r.pose, size, scene)
        for r in (seen, other)
    )
    ids, weights = render_mesh_ids(here, triangles, (size, size))
    hit = ids[0] >= 0
    corners = triangles[ids[0][hit].long()].long()  # [P, 3]
    points = (there[0][corners] * weights[0][hit][..., None]).sum(1)
    field = torch.full((size, size, 2), float("nan"))
    field[hit] = points[:, :2] * (2 / size) - 1
    ids, weights = render_mesh_ids(there, triangles, (size, size))
    nearest = (there[0, :, 2][triangles[ids[0].clamp_min(0).long()].long()] * weights[0]).sum(-1)
    at = points[:, :2].floor().long()
    within = ((at >= 0) & (at < size)).all(1)
    at = at.clamp(0, size - 1)
    slack = _HIDDEN * float(other.pose[5]) * size / 2 + 1.0
    shown = within & (ids[0][at[:, 1], at[:, 0]] >= 0) & (points[:, 2] >= nearest[at[:, 1], at[:, 0]] - slack)
    visible = torch.zeros((size, size), dtype=torch.bool)
    visible[hit] = shown
    return Flow(field.numpy(), visible.numpy(), (~hit & (ids[0] < 0)).numpy())


def _checked(name: str, value: Any, length: int) -> Array:
    array = np.ascontiguousarray(value, np.float32)
    if array.shape != (length,) or not np.isfinite(array).all():
        raise ValueError(f"{name}: got shape {array.shape}, need {length} finite numbers")
    return array


def _need_size(size: int) -> None:
    if size < 16:
        raise ValueError(f"size: got {size}, need at least 16 px")
