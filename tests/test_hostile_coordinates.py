"""K7: NaN, infinities, numbers beyond every integer and exact edges, for each op that takes coordinates."""

import numpy as np
import pytest
import torch
from conftest import LEVELS, assert_close
from op_calls import Draw
from torch import Tensor

from fastreenact import ops
from fastreenact.face.crop import Box
from fastreenact.face.morphable.fit import fit
from fastreenact.face.morphable.model import default_model
from fastreenact.models.landmark_warp.warp import LandmarkWarp

HOLDS = "hostile coordinates: nothing but finite pixels, NaN is outside, numbers as the reference has them"
BATCH = 50  # fields of one call
FAR = [float("inf"), -float("inf"), 1e38, -1e38, 3.4e38, -3.4e38, 2.0**31, -(2.0**31), 2.0**24 + 1, 1e-45, -0.0]


def hostile(draw: Draw, shape: tuple[int, ...], size: int, *, nan: bool = True, share: float = 0.4) -> Tensor:
    """float32 coordinates: some harmless, the others far, on the edges and centres of `size` pixels, or just beside."""
    grid = torch.arange(-2, 2 * size + 3) / size - 1
    edges = torch.cat([grid, torch.nextafter(grid, grid + 1), torch.nextafter(grid, grid - 1)])
    pool = torch.cat([torch.tensor([float("nan")] * 3 * nan + FAR), edges[draw.index(20, len(edges)).long()]])
    count = int(torch.tensor(shape).prod())
    values = draw.places(count)
    chosen = pool[draw.index(count, len(pool)).long()]
    return torch.where(draw.places(count).abs() < 1.3 * share, chosen, values).view(shape)


def as_outside(coordinates: Tensor) -> Tensor:
    """NaN counts as minus infinity."""
    return coordinates.masked_fill(coordinates.isnan(), -float("inf"))


@pytest.fixture
def draw(generator):
    return Draw(generator)


@pytest.mark.row("K7", f"warp, {HOLDS}")
def test_warp(row, draw):
    calls = row.amount(20, 10_000 // BATCH)
    for _ in range(calls):
        dtype, channels = draw.one(torch.float32, torch.bfloat16, torch.uint8), draw.channels()
        height, width = draw.whole(1, 9), draw.whole(1, 9)
        features = draw.normal(2, height, width, channels, dtype=dtype)
        field = hostile(draw, (BATCH, draw.whole(1, 5), draw.whole(1, 9), 2), draw.one(height, width))
        options = {
            "source_index": draw.index(BATCH, 2),
            "padding": draw.one("zeros", "border"),
            "field_resize": draw.one("nearest", "bilinear"),
            "size": (draw.whole(1, 9), draw.one(1, 5, 17)),
        }
        got = ops.warp(features, field, **options)
        assert got.isfinite().all()
        if options["field_resize"] == "bilinear":  # between 1e38 and 0 the last bit of a weight decides
            continue
        assert torch.equal(got, ops.warp(features, as_outside(field), **options))
        if dtype == torch.uint8:  # halves, which edges and centres give often, are rounded either way
            wanted = ops.warp_reference(features, field.double(), **options)
            assert (got.int() - wanted.int()).abs().max() <= LEVELS
        else:
            assert_close(got, ops.warp_reference(features.double(), field.double(), **options))
    row.measured(f"{calls * BATCH} fields: all finite, as the reference")


@pytest.mark.row("K7", f"grid_sample_3d, {HOLDS}")
def test_grid_sample_3d(row, draw):
    calls = row.amount(10, 10_000 // BATCH)
    for _ in range(calls):
        sizes = draw.whole(1, 4), draw.whole(1, 5), draw.whole(1, 6)
        dtype = draw.one(torch.float32, torch.bfloat16)
        volume = draw.normal(1, *sizes, draw.channels(), dtype=dtype).expand(BATCH, -1, -1, -1, -1)
        grid = hostile(draw, (BATCH, draw.whole(1, 3), draw.whole(1, 3), draw.whole(1, 9), 3), draw.one(*sizes))
        options = {
            "padding": draw.one("zeros", "border"),
            "align_corners": draw.one(False, True),
            "sum_depth": draw.one(False, True),
        }
        got = ops.grid_sample_3d(volume, grid, **options)
        assert got.isfinite().all()
        assert torch.equal(got, ops.grid_sample_3d(volume, as_outside(grid), **options))
        assert_close(got, ops.grid_sample_3d_reference(volume.double(), grid.double(), **options))
    row.measured(f"{calls * BATCH} grids: all finite, as the reference")


@pytest.mark.row("K7", "drawing: lines between hostile keypoints, and triangles of hostile corners, as the reference")
def test_drawing(row, draw):
    calls = row.amount(4, 10_000 // BATCH)
    for call in range(calls):
        size, layout = draw.one(1, 7, 16, 40), draw.whole(0, 2)
        keypoints = hostile(draw, (BATCH, 72, 2), size, share=0.1)
        got = ops.rasterize_landmarks(keypoints, size, layout)
        unseen = keypoints.masked_fill(~keypoints.isfinite(), float("inf"))
        assert torch.equal(got, ops.rasterize_landmarks(unseen, size, layout))
        if call < 5:
            assert torch.equal(got[:2], ops.rasterize_landmarks_reference(keypoints[:2], size, layout))
        ends = (hostile(draw, (BATCH, 4), size, nan=False) * 60).clamp(-(2.0**31), 2.0**31).long()
        assert set(ops.rasterize_lines(ends, 20, 30).unique().tolist()) <= {0, 255}
        height, width = draw.whole(1, 9), draw.whole(1, 12)
        corners = (hostile(draw, (BATCH, 9, 3), width, share=0.15) + 1) * (width / 2)
        triangles, attributes = draw.index(15, 9).view(5, 3), draw.normal(9, draw.whole(1, 4))
        image, alpha = ops.render_mesh(corners, triangles, attributes, (height, width))
        assert image.isfinite().all()
        assert alpha.min() >= 0
        assert alpha.max() <= 1
        ids, weights = ops.render_mesh_ids(corners, triangles, (height, width))
        assert ids.min() >= -1
        assert ids.max() < 5
        assert weights.isfinite().all()
        expected, _ = ops.render_mesh_ids_reference(corners[:1], triangles, (height, width))
        assert torch.equal(ids[:1] >= 0, expected >= 0)
    row.measured(f"{calls * BATCH} each of faces, lines and meshes")


@pytest.mark.row("K7", "squares: boxes far away, huge or tiny: levels stay levels, other numbers are refused")
def test_squares(row, draw):
    calls = row.amount(200, 10_000)
    pool = [0.0, 1e308, -1e308, 1.7e308, 2.0**63, -(2.0**63), 1e-308, 5e-324, 0.5, 7.0, 15.5, 31.0]
    picture, raw = draw.normal(20, 31, 3, dtype=torch.uint8), draw.normal(5, 5, 4)
    for _ in range(calls):
        box = draw.one(*pool), draw.one(*pool), abs(draw.one(*pool[1:]))
        small = ops.shrink(picture, box, draw.one(1, 9, 65), samples=draw.whole(1, 2))
        assert small.min() >= -1.000001
        assert small.max() <= 1.000001
        surface = picture.clone()
        fade = draw.one(0.0, 0.3)
        ops.compose_frame(raw, surface, box, most_gain=1.5, fade=fade)
        assert_close(surface, ops.compose_frame_reference(raw.double(), picture.clone(), box, most_gain=1.5, fade=fade))
    for bad in (float("nan"), float("inf"), -float("inf")):
        for box in ((bad, 3, 3), (3, bad, 3), (3, 3, bad)):
            with pytest.raises(ValueError, match="box: got"):
                ops.shrink(picture, box, 4)
            with pytest.raises(ValueError, match="box: got"):
                ops.compose_frame(raw, picture, box, most_gain=1.5)
    row.measured(f"{calls} boxes")


@pytest.mark.row("K7", "landmark warp and fit: hostile keypoints give a picture and a finite pose, or ValueError")
def test_landmark_warp_and_fit(row, draw):
    calls, drawn, refused = row.amount(20, 10_000), 0, 0
    model, shape, rest = default_model(), np.zeros(50, np.float32), np.array((0, 0, 0, 0, 0, 0.45), np.float32)
    neutral = model.project(shape, np.zeros(51, np.float32), rest)
    renderer, box = LandmarkWarp(64, 64), Box(32, 32, 64)
    state = renderer.encode(draw.normal(64, 64, 3, dtype=torch.uint8).numpy(), neutral, rest, box)
    for call in range(calls):
        strange = hostile(draw, (72, 2), 64, share=draw.one(0.02, 0.2)).numpy()
        if call % 2:
            strange = np.nan_to_num(strange, nan=9.0).clip(-9e5, 9e5)  # as far as the warp takes them
        for work in (lambda points: renderer.drive(state, points, rest), lambda points: fit(model, points, shape)):
            try:
                found = work(strange)
            except ValueError:
                refused += 1
                continue
            drawn += 1
            if not isinstance(found, torch.Tensor):
                assert np.isfinite(found.pose).all()
                assert np.isfinite(found.expression).all()
    row.measured(f"{2 * calls} calls: {drawn} done, {refused} refused")
    assert drawn > 0
    assert refused > 0
