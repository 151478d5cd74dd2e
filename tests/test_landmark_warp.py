"""landmark_warp: moves what the keypoints move, leaves the rest bit for bit, never folds."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("scipy", reason="SciPy is not installed")
from scipy.spatial import ConvexHull

from fastreenact.face.crop import Box
from fastreenact.face.keypoints import COUNT, MIRROR
from fastreenact.face.morphable.expressions import EXPRESSION_NAMES
from fastreenact.face.morphable.model import default_model
from fastreenact.models.landmark_warp.field import Controls
from fastreenact.models.landmark_warp.grid import Grid
from fastreenact.models.landmark_warp.head import follow, make_head, rotation
from fastreenact.models.landmark_warp.slits import EYES, MOUTH, Slit, cover
from fastreenact.models.landmark_warp.unfold import _areas, triangulate
from fastreenact.models.landmark_warp.warp import LandmarkWarp
from fastreenact.ops import landmark_field, landmark_field_reference
from fastreenact.ops.landmark_field import Splines
from fastreenact.timings import StageTimer

MODEL = default_model()
NEUTRAL = np.zeros(51, np.float32)
SHAPE = np.zeros(50, np.float32)
REST = np.array((0.0, 0.0, 0.0, 0.0, 0.0, 0.45), np.float32)
JAW, SMILE, SMILE_RIGHT, BLINK, BLINK_RIGHT = map(
    EXPRESSION_NAMES.index, ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "eyeBlinkLeft", "eyeBlinkRight")
)


def project(expression=NEUTRAL, pose=REST):
    """Keypoints [72, 2] of the built-in model."""
    return MODEL.project(SHAPE, expression, np.asarray(pose, np.float32))


def texture(height, width, seed=3):
    """A picture with detail at every scale: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(a * x + b * y + c)
        for a, b, c in zip(*(rng.uniform(-0.4, 0.4, 9), rng.uniform(-0.4, 0.4, 9), rng.uniform(0, 6, 9)), strict=True)
    ]
    picture = np.stack([sum(waves[i::3]) for i in range(3)], axis=-1) * 35 + 128
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def resident(height, width, box, pose=REST):
    """A renderer and a state with the neutral model face in `box`."""
    renderer = LandmarkWarp(height, width)
    return renderer, renderer.encode(texture(height, width), project(pose=pose), pose, box)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (256, 256, Box(128, 128, 256)),
        (301, 477, Box(200, 160, 230)),
        (64, 64, Box(32, 32, 64)),
        (720, 500, Box(250, 300, 480)),
        (200, 200, Box(180, 30, 220)),  # part of the face is outside
    ],
)
def test_landmark_warp_identity_gives_the_portrait(height, width, box):
    renderer, state = resident(height, width, box)
    moved = renderer.drive(state, project(), REST).numpy()
    np.testing.assert_array_equal(moved, texture(height, width))


@pytest.mark.parametrize("expression", [JAW, SMILE, BLINK])
def test_landmark_warp_gives_the_portrait_again_after_moving(expression):
    renderer, state = resident(256, 256, Box(128, 128, 256))
    bent = NEUTRAL.copy()
    bent[expression] = 1.0
    moved = renderer.drive(state, project(bent), REST).numpy()
    assert np.abs(moved.astype(int) - texture(256, 256)).max() > 20
    np.testing.assert_array_equal(renderer.drive(state, project(), REST).numpy(), texture(256, 256))


def _shift_of(moved, still, centre, radius=10, reach=14):
    """Displacement (px, whole) of the patch around `centre`: best match of `still` in `moved`."""
    x, y = centre
    patch = still[y - radius : y + radius + 1, x - radius : x + radius + 1].astype(int)
    best = (np.inf, 0, 0)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            other = moved[y + dy - radius : y + dy + radius + 1, x + dx - radius : x + dx + radius + 1]
            best = min(best, (float(np.abs(other - patch).mean()), dx, dy))
    return best[1:]


@pytest.mark.parametrize(("tx", "ty"), [(0.06, 0.0), (0.0, -0.05), (-0.04, 0.04)])
def test_landmark_warp_translation_moves_the_face(tx, ty):
    renderer, state = resident(256, 256, Box(128, 128, 256))
    pose = REST + np.array((0, 0, 0, tx, ty, 0), np.float32)
    moved = renderer.drive(state, project(pose=pose), pose).numpy()
    nose = np.round(128 + 128 * project()[30]).astype(int)
    dx, dy = _shift_of(moved, texture(256, 256), nose)
    assert max(abs(dx - 128 * tx), abs(dy - 128 * ty)) <= 1.5


@pytest.mark.parametrize(
    "pose", [(0, 0, 0.15, 0, 0, 0.45), (0, 0, 0, 0, 0, 0.5), (0, 0.3, 0, 0, 0, 0.45), (0.2, 0, 0, 0, 0, 0.45)]
)
def test_landmark_warp_field_reads_keypoints_from_keypoints(pose):
    _, state = resident(256, 256, Box(128, 128, 256))
    pose = np.array(pose, np.float32)
    points = 128 + 128 * project(pose=pose).astype(np.float64)
    rigid, points = follow(state.head, points, pose)
    controls = Controls(state.head, points, rigid)
    at = controls.keypoints.astype(np.float32)
    splines = Splines(state.grid.inputs(controls))
    back = at + splines.join(at, splines.at(at))
    outside_cuts = np.r_[0:36, 52, 57, 62, 71]
    assert np.abs(back - state.head.keypoints)[outside_cuts].max() < 1.5
    assert np.abs(controls.keypoints - (128 + 128 * project(pose=pose))).mean() < 0.5


@pytest.mark.parametrize(("height", "width", "box"), [(400, 500, Box(250, 220, 150)), (333, 257, Box(120, 150, 110))])
def test_landmark_warp_leaves_the_background_bit_for_bit(height, width, box):
    renderer, state = resident(height, width, box)
    bent = NEUTRAL.copy()
    bent[[JAW, SMILE, SMILE_RIGHT]] = 0.8
    pose = np.array((0.2, -0.35, 0.2, 0.05, -0.05, 0.47), np.float32)
    moved = renderer.drive(state, project(bent, pose), pose).numpy()
    y, x = np.mgrid[:height, :width]
    away = np.hypot(x - box.cx, y - box.cy) > 1.15 * box.size
    assert away.mean() > 0.15
    np.testing.assert_array_equal(moved[away], texture(height, width)[away])
    assert np.abs(moved.astype(int) - texture(height, width)).max() > 20


def _random_motion(rng):
    expression = np.where(rng.random(51) < 0.25, rng.random(51), 0.0).astype(np.float32)
    pose = np.concatenate(
        (
            rng.uniform(-0.35, 0.35, 1),
            rng.uniform(-0.6, 0.6, 1),
            rng.uniform(-0.4, 0.4, 1),
            rng.uniform(-0.15, 0.15, 2),
            rng.uniform(0.38, 0.53, 1),
        )
    )
    return expression, pose.astype(np.float32)


def _seen_jacobians(state, size, keypoints, pose):
    """Determinants of the field at nodes 5 px apart, each spline on its side; not under a layer nor at the rim."""
    rigid, points = follow(state.head, size / 2 + size / 2 * keypoints.astype(np.float64), pose)
    controls = Controls(state.head, points, rigid)
    grid = Grid(size, size, state.head.unit)
    field = Splines(grid.inputs(controls))
    at = field.nodes([0, 0, size // 10, size // 10], 5)
    splines = field.limited(at, np.ones(at.shape[:2], bool))
    above, below = field.above(0, at)[..., 0], field.above(1, at)[..., 0]
    seen = np.all((at > 8) & (at < size - 8), axis=-1)
    for part in (*EYES, MOUTH):
        seen &= Slit(controls.keypoints, part).depth(at[0, :, 0], at[:, 0, 1]) < -2
    found = []
    for i, side in enumerate((above > 0.5, (above < 0.5) & (below > 0.5), below < 0.5)):
        read = at + splines[..., 2 * i : 2 * i + 2]
        ex, ey = np.diff(read, axis=1)[:-1] / 5, np.diff(read, axis=0)[:, :-1] / 5
        mine = side & seen
        whole = mine[:-1, :-1] & mine[1:, :-1] & mine[:-1, 1:] & mine[1:, 1:]
        found.append((ex[..., 0] * ey[..., 1] - ex[..., 1] * ey[..., 0])[whole])
    return np.concatenate(found)


def test_landmark_warp_does_not_fold():
    rng = np.random.default_rng(11)
    _, state = resident(256, 256, Box(128, 128, 256))
    found = []
    for _ in range(100):
        expression, pose = _random_motion(rng)
        found.append(_seen_jacobians(state, 256, project(expression, pose), pose))
        # Wild motions may leave a node or two between the control points; they are below a hundredth of a percent.
        assert (found[-1] < -0.01).sum() <= 2
    assert (np.concatenate(found) < -0.01).mean() < 1e-4


@pytest.mark.parametrize(("height", "width"), [(97, 131), (1, 1), (17, 400), (611, 353)])
def test_landmark_warp_any_size(height, width):
    renderer, state = resident(height, width, Box(width / 2, height / 2, max(height, width)))
    expression, pose = _random_motion(np.random.default_rng(5))
    moved = renderer.drive(state, project(expression, pose), pose)
    assert (tuple(moved.shape), moved.dtype) == ((height, width, 3), torch.uint8)


@pytest.mark.parametrize("box", [Box(10, 100, 256), Box(250, 240, 300), Box(128, -40, 256), Box(900, 900, 200)])
def test_landmark_warp_face_partly_or_wholly_outside(box):
    renderer, state = resident(256, 256, box)
    rng = np.random.default_rng(2)
    for _ in range(5):
        expression, pose = _random_motion(rng)
        assert renderer.drive(state, project(expression, pose), pose).shape == (256, 256, 3)
    np.testing.assert_array_equal(renderer.drive(state, project(), REST).numpy(), texture(256, 256))


def test_landmark_warp_any_keypoints_that_are_numbers():
    renderer, state = resident(128, 128, Box(64, 64, 128))
    rng = np.random.default_rng(4)
    for size in (0.0, 1.0, 100.0, 1e4):
        wild = rng.normal(0, 1, (COUNT, 2)).astype(np.float32) * size
        assert renderer.drive(state, wild, REST).shape == (128, 128, 3)


def test_landmark_warp_out_is_reused():
    renderer, state = resident(120, 90, Box(45, 60, 90))
    pose = REST + np.array((0, 0.2, 0, 0, 0, 0), np.float32)
    expected = renderer.drive(state, project(pose=pose), pose).numpy()
    whole = torch.full((140, 110, 3), 7, dtype=torch.uint8)
    out = whole[10:130, 10:100]
    assert renderer.drive(state, project(pose=pose), pose, out=out) is out
    np.testing.assert_array_equal(out.numpy(), expected)
    whole[10:130, 10:100] = 7
    assert (whole == 7).all()


def test_landmark_warp_stages():
    timer = StageTimer(torch.device("cpu"))
    timer.start()
    renderer, state = resident(64, 64, Box(32, 32, 64))
    renderer.drive(state, project(), REST, timer=timer)
    assert list(timer.finish()) == ["motion", "warp", "deliver"]


def test_landmark_warp_is_steady():
    """A small step of the driver is a small step of the picture: nothing pops in."""
    renderer, state = resident(256, 256, Box(128, 128, 256))
    frames = []
    for t in np.linspace(0, 1, 41):
        expression = NEUTRAL.copy()
        expression[[JAW, BLINK, BLINK_RIGHT, SMILE]] = t
        pose = REST + np.float32(t) * np.array((0.2, 0.3, 0.1, 0.05, 0, 0.03), np.float32)
        frames.append(renderer.drive(state, project(expression, pose), pose).numpy().astype(np.float32))
    steps = np.array([np.abs(b - a).mean() for a, b in itertools.pairwise(frames)])
    assert steps.max() < 2.5 * np.median(steps)


def test_landmark_warp_closes_the_eyes():
    renderer = LandmarkWarp(256, 256)
    portrait = np.full((256, 256, 3), 180, np.uint8)
    middle = (np.arange(256) + 0.5).astype(np.float32)
    for eye in EYES:
        portrait[Slit(128 + 128 * project().astype(np.float64), eye).depth(middle, middle) > 0] = 20
    state = renderer.encode(portrait, project(), REST, Box(128, 128, 256))
    shut = NEUTRAL.copy()
    shut[[BLINK, BLINK_RIGHT]] = 1.0
    moved = renderer.drive(state, project(shut), REST).numpy()
    assert (moved < 90).sum() < 0.4 * (portrait < 90).sum()


def test_landmark_warp_opens_a_dark_mouth():
    renderer = LandmarkWarp(256, 256)
    state = renderer.encode(np.full((256, 256, 3), 200, np.uint8), project(), REST, Box(128, 128, 256))
    wide = NEUTRAL.copy()
    wide[JAW] = 1.0
    moved = renderer.drive(state, project(wide), REST).numpy()
    inside = 128 + 128 * project(wide)[[63, 70]].mean(axis=0)
    x, y = inside.astype(int)
    assert moved[y, x].max() < 130
    assert (moved[:90] == 200).all()


@pytest.mark.parametrize("source_yaw", [-0.9, 0.9])
def test_landmark_warp_turns_back_what_the_portrait_does_not_show(source_yaw):
    source = REST + np.array((0, source_yaw, 0, 0, 0, 0), np.float32)
    head = make_head(128 + 128 * project(pose=source).astype(np.float64), source)
    wanted = REST.copy()
    _, points = follow(head, 128 + 128 * project(pose=wanted).astype(np.float64), wanted)
    nose = points[30, 0] - points[[0, 9], 0].mean()
    assert nose * np.sign(source_yaw) > 10


def test_landmark_warp_rotation_is_the_model_s():
    vector = np.array((0.2, -0.4, 0.3))
    turned = MODEL.project(SHAPE, NEUTRAL, np.array((*vector, 0, 0, 1), np.float32))
    flip = np.array((1, -1, 1))
    expected = (MODEL.points(SHAPE, NEUTRAL) * flip) @ rotation(vector).T
    np.testing.assert_allclose(turned, expected[:, :2], atol=1e-5)


def test_landmark_warp_rejects_what_is_no_motion():
    renderer, state = resident(64, 64, Box(32, 32, 64))
    bad = project().copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="keypoints: some values are NaN or infinite"):
        renderer.drive(state, bad, REST)
    with pytest.raises(ValueError, match=r"keypoints: got shape \(68, 2\), need \(72, 2\)"):
        renderer.drive(state, bad[:68], REST)
    with pytest.raises(ValueError, match="pose: some values"):
        renderer.drive(state, project(), REST + np.inf)
    with pytest.raises(ValueError, match="pose: got scale 0"):
        renderer.drive(state, project(), REST * 0)
    with pytest.raises(ValueError, match="out: got torch"):
        renderer.drive(state, project(), REST, out=torch.zeros(64, 64, 3))
    with pytest.raises(ValueError, match="image: got torch"):
        renderer.encode(texture(32, 64), project(), REST, Box(32, 32, 64))
    with pytest.raises(ValueError, match="keypoints: not a face turned as `pose` says"):
        renderer.encode(texture(64, 64), project()[MIRROR], REST, Box(32, 32, 64))
    with pytest.raises(ValueError, match="height, width"):
        LandmarkWarp(0, 4)


def test_triangulate_covers_the_hull_with_triangles_the_right_way_round():
    points = np.random.default_rng(0).random((60, 2))
    triangles = triangulate(points)
    areas = _areas(points, triangles)
    assert (areas > 0).all()
    hull = ConvexHull(points)
    assert areas.sum() == pytest.approx(hull.volume, rel=1e-3)
    assert len(triangles) == 2 * len(points) - 2 - len(hull.vertices)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (256, 256, Box(128, 128, 256)),
        (301, 477, Box(200, 160, 230)),
        (720, 500, Box(250, 300, 480)),  # two pixels a node
        (200, 200, Box(180, 30, 220)),
        (97, 131, Box(60, 50, 131)),
        (64, 64, Box(32, 32, 40)),  # a node a pixel
    ],
)
def test_landmark_field_is_its_reference(height, width, box):
    _, state = resident(height, width, box)
    rng = np.random.default_rng(3)
    pixels = np.array((width, height)) / 2
    for _ in range(4):
        expression, pose = _random_motion(rng)
        points = box.denormalise(project(expression, pose)).astype(np.float64)
        rigid, points = follow(state.head, points, pose)
        controls = Controls(state.head, points, rigid)
        field, rect = state.grid.field(controls)
        inputs = state.grid.inputs(controls)
        expected = landmark_field_reference(inputs)
        assert rect == tuple(inputs.rects[0])
        error = np.abs(field - expected) * pixels
        # Weights of some hundred pixels cancel each other in float32.
        assert error.max() < 2e-4 * box.size
        assert np.sqrt((error**2).mean()) < 2e-5 * box.size
        # The part of it that lies within a picture, and nothing beside.
        step = state.grid.step
        nodes = np.full((-(-height // step), -(-width // step), 2), 7.0, np.float32)
        left, top, right, low = state.grid.draw(controls, nodes)
        first = np.array(state.grid.corner(rect)) // step
        np.testing.assert_array_equal(
            nodes[top:low, left:right], field[top - first[1] : low - first[1], left - first[0] : right - first[0]]
        )
        nodes[top:low, left:right] = 7.0
        assert (nodes == 7.0).all()


def test_landmark_field_refuses_other_arrays():
    """Before anything is written: what it reads lies where it says."""
    _, state = resident(64, 64, Box.whole(64))
    rigid, points = follow(state.head, 32 + 32 * project().astype(np.float64), REST)
    inputs = state.grid.inputs(Controls(state.head, points, rigid))
    out = np.full((3, 4, 2), 7.0, np.float32)
    for wrong in (
        {"at": inputs.at.astype(np.float32)},
        {"displacement": inputs.displacement[:-1]},
        {"slack": inputs.slack[::-1]},
        {"order": inputs.order.astype(np.int64)},
        {"members": inputs.members[:2]},
        {"head": inputs.head.tolist()},
        {"cuts": inputs.cuts[:, :-1].copy()},
        {"rects": inputs.rects[:4]},
    ):
        with pytest.raises(TypeError, match=f"landmark_field: {next(iter(wrong))} needs"):
            landmark_field(inputs._replace(**wrong), out)
    for bad in (out.astype(np.float64), out[..., :1], out[:, ::2], np.moveaxis(out, 2, 0)):
        with pytest.raises(TypeError, match="landmark_field: out needs"):
            landmark_field(inputs, bad)
    assert (out == 7.0).all()


@pytest.mark.parametrize("size", [97, 256, 700])
def test_covers_follow_their_slits(size):
    """Opacity by the distance from the edges, and layers that stay with the head, against NumPy."""
    _, state = resident(size, size, Box.whole(size))
    bent = NEUTRAL.copy()
    bent[[JAW, SMILE]] = 0.7
    seen = 0
    for pose in (REST, REST + np.float32((0.1, 0.2, -0.3, 0.05, 0.02, 0.03))):
        points = size / 2 + size / 2 * project(bent, pose).astype(np.float64)
        rigid, points = follow(state.head, points, pose)
        unit = state.head.unit * np.sqrt(np.linalg.det(rigid.flat))
        for layer, image in state.layers:
            found = cover(layer, state.head, points, rigid, (size, size))
            if found is None:
                continue
            h, w = found.opacity.shape[:2]
            x, y = (np.arange(first, first + count) + 0.5 for first, count in ((found.x0, w), (found.y0, h)))
            slit = Slit(points, layer.part)
            t = np.clip((slit.depth(x, y) / unit - layer.part.inset) / layer.part.soft, 0, 1)
            gain = found.opacity.max() if layer.shown < 1 else 1.0
            np.testing.assert_allclose(found.opacity[..., 0], gain * t * t * (3 - 2 * t), atol=2e-4)
            assert gain > 0.2
            # The layer's affine map: where its anchor goes, and how it turns.
            there = (found.field + 1) * np.array(image.shape[2:0:-1]) / 2 + (layer.x0, layer.y0)
            back = np.linalg.inv(rigid.linear[:, :2])
            np.testing.assert_allclose(there[0, -1] - there[0, 0], back[:, 0] * (w - 1), atol=2e-2)
            np.testing.assert_allclose(there[-1, 0] - there[0, 0], back[:, 1] * (h - 1), atol=2e-2)
            if layer.part is not MOUTH:
                centre = layer.anchor[:2] + back @ ((x[0], y[0]) - slit.centre)
                np.testing.assert_allclose(there[0, 0], centre, atol=2e-2)
            seen += 1
    assert seen >= 5


@pytest.mark.parametrize("size", [64, 256, 700])
def test_covers_are_laid_alike_on_packed_pixels_and_others(size):
    """The compiled form, and the one of `warp` that serves a GPU and pixels that lie apart."""
    renderer, state = resident(size, size, Box.whole(size))
    bent = NEUTRAL.copy()
    bent[JAW] = 0.8
    placed = renderer.place(state, project(bent), REST)
    assert len(placed.covers) == 3
    skin = texture(size, size, 8)
    packed, apart = skin.copy(), np.zeros((size, size, 4), np.uint8)[..., :3]
    apart[:] = skin
    renderer.cover(packed, placed)
    renderer.cover(apart, placed)
    assert np.abs(packed.astype(int) - apart).max() <= 1
    changed = np.zeros((size, size), bool)
    for laid, _ in placed.covers:
        h, w = laid.opacity.shape[:2]
        changed[laid.y0 : laid.y0 + h, laid.x0 : laid.x0 + w] |= laid.opacity[..., 0] > 0
    np.testing.assert_array_equal(packed[~changed], skin[~changed])
    assert np.abs(packed.astype(int) - skin)[changed].mean() > 5


def test_landmark_field_takes_any_points():
    _, state = resident(128, 128, Box(64, 64, 128))
    rng = np.random.default_rng(4)
    for size in (0.0, 1.0, 100.0):
        rigid, points = follow(state.head, rng.normal(64, size, (COUNT, 2)), REST)
        field, _ = state.grid.field(Controls(state.head, points, rigid))
        assert np.isfinite(field).all()


def test_landmark_warp_reenacts_a_real_clip(shared):
    """Against the unmoved source and the numbers of the benchmark, on a few frames with a wide open mouth."""
    pytest.importorskip("mediapipe")
    sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
    try:
        bench = importlib.import_module("reenactment")
    finally:
        sys.path.pop(0)
    track = bench.tracker()
    clip = bench.Clip(shared / "data" / "videos" / "d18.mp4", 24, track)
    moved = bench.measure(clip, bench.warp_fitted(clip), track)
    still = bench.measure(clip, lambda i: clip.frames[0], track)
    assert moved["akd_px"] < 1.0 < still["akd_px"]
    assert moved["psnr_face_db"] > still["psnr_face_db"] + 1.5
    assert moved["ssim"] > still["ssim"]


@pytest.mark.parametrize("side", [24, 60, 130, 256])
def test_landmark_warp_small_faces_move_as_large_ones(side):
    """The same face at another size in the picture moves alike: the field's nodes keep up with it."""
    expression, pose = _random_motion(np.random.default_rng(8))
    read = []
    for size in (side, 512):
        box = Box(300, 300, size)
        _, state = resident(600, 600, box)
        rigid, points = follow(state.head, box.denormalise(project(expression, pose)).astype(np.float64), pose)
        found = state.grid.field(Controls(state.head, points, rigid))
        assert found is not None
        field, rect = found
        corner = np.array(state.grid.corner(rect))
        at = (box.denormalise(project(expression, pose)[[19, 24, 30, 3, 12, 8]]) - corner) / state.grid.step - 0.5
        x, y = np.round(at).astype(int).T
        moved = field[y, x] * 300 + 300 - (np.stack((x, y), axis=-1) + 0.5) * state.grid.step - corner
        read.append(moved / size)
    assert np.abs(read[0] - read[1]).max() < 0.03
