"""slit_cover and lay_cover against their meaning in NumPy, and what they refuse."""

import numpy as np
import pytest

from fastreenact.ops import SlitShape, lay_cover, lay_cover_reference, slit_cover, slit_cover_reference


def shape_of(rng: np.random.Generator, height: int, width: int) -> SlitShape:
    """A slit somewhere in a window of this size, its edges' points closer together in places, some at one place."""
    turn, half = rng.uniform(-0.6, 0.6), rng.uniform(0.2, 0.5) * width
    along = np.sort(rng.uniform(-half, half, 17))
    along[5] = along[6]
    bow = 0.3 * height * (1 - (along / half) ** 2)
    edges = [np.column_stack((along, side * bow + rng.normal(0, 0.3, 17))) for side in (-1, 1)]
    upper, lower = (edge.astype(np.float32) for edge in edges)
    left, top = (int(value) for value in rng.integers(-9, 300, 2))
    frame = (left + width / 2, top + height / 2, np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn))
    layer = (2 / width, 0.003, -2 * left / width - 1, -0.002, 2 / height, -2 * top / height - 1)
    return SlitShape(upper, lower, frame, layer, left, top, rng.uniform(0, 1), rng.uniform(0.5, 4), rng.uniform(0.2, 1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (33, 65), (90, 128)])
def test_slit_cover_is_its_reference(height, width):
    rng = np.random.default_rng(height)
    for _ in range(5):
        shape = shape_of(rng, height, width)
        opacity, field = (np.full((height, width, values), np.nan, np.float32) for values in (1, 2))
        slit_cover(shape, opacity, field)
        expected = slit_cover_reference(shape, height, width)
        np.testing.assert_allclose(opacity, expected[0], atol=3e-4)
        np.testing.assert_allclose(field, expected[1], atol=4e-5)
    assert height < 5 or expected[0].max() > 0.1


@pytest.mark.parametrize("layer", [(1, 1), (2, 9), (40, 31)], ids=str)
def test_lay_cover_is_its_reference(layer):
    rng = np.random.default_rng(layer[0])
    image = rng.integers(0, 256, (*layer, 3), dtype=np.uint8)
    opacity = np.clip(rng.uniform(-0.5, 1.5, (17, 23, 1)), 0, 1).astype(np.float32)
    field = rng.uniform(-1.4, 1.4, (17, 23, 2)).astype(np.float32)
    wide = rng.integers(0, 256, (19, 30, 3), dtype=np.uint8)
    before, surface = wide.copy(), wide[1:18, 4:27]
    expected = lay_cover_reference(image, opacity, field, surface)
    lay_cover(image, opacity, field, surface)
    apart = np.abs(surface.astype(int) - expected)
    assert apart.max() <= 1  # float32 at a half
    assert (apart > 0).mean() < 0.001
    wide[1:18, 4:27] = before[1:18, 4:27]
    np.testing.assert_array_equal(wide, before)


def test_covers_refuse_other_arrays():
    shape = shape_of(np.random.default_rng(0), 5, 7)
    opacity, field = np.zeros((5, 7, 1), np.float32), np.zeros((5, 7, 2), np.float32)
    for wrong in (opacity.astype(np.float64), opacity[..., 0], np.zeros((5, 14, 1), np.float32)[:, ::2]):
        with pytest.raises(TypeError, match="slit_cover: opacity needs"):
            slit_cover(shape, wrong, field)
    with pytest.raises(TypeError, match="slit_cover: field needs"):
        slit_cover(shape, opacity, field[:4])
    with pytest.raises(TypeError, match="slit_cover: lower needs"):
        slit_cover(shape._replace(lower=shape.lower[:-1]), opacity, field)
    layer, surface = np.zeros((2, 2, 3), np.uint8), np.zeros((5, 7, 3), np.uint8)
    for bad in (surface.astype(np.int8), surface[..., :2], surface[:, ::2], np.zeros((5, 7, 4), np.uint8)[..., :3]):
        with pytest.raises(TypeError, match="lay_cover: surface needs"):
            lay_cover(layer, opacity, field, bad)
    with pytest.raises(ValueError, match="surface needs the size of opacity"):
        lay_cover(layer, opacity, field, surface[:4])
