"""Box, crop and paste-back."""

import numpy as np
import pytest

from fastreenact.face.crop import Box, Paster, crop, crop_box

RNG = np.random.default_rng(0)


def noise(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(x / 17), 128 + 100 * np.cos(y / 13), 90 + 0 * x], 2).astype(np.uint8)


def test_box_normalises_and_back():
    box = Box(100.0, 50.0, 80.0)
    np.testing.assert_allclose(box.normalise([[60, 10], [140, 90], [100, 50]]), [[-1, -1], [1, 1], [0, 0]])
    px = RNG.random((3, 72, 2)) * 100
    np.testing.assert_allclose(box.denormalise(box.normalise(px)), px, atol=1e-4)
    assert box.normalise(px).dtype == np.float32


def test_crop_box_frames_the_face():
    points = np.tile((150.0, 240.0), (72, 1))
    points[0], points[1] = (100, 200), (200, 280)  # 100 x 80, the middle at (150, 240)
    assert crop_box(points) == pytest.approx((150, 240 - 22, 220))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((68, 2)), r"got shape \(68, 2\), need \[72, 2\]"),
        (np.full((72, 2), np.nan), "NaN or infinite"),
        (np.ones((72, 2)), "all points coincide"),
    ],
)
def test_crop_box_refuses(points, message):
    with pytest.raises(ValueError, match=message):
        crop_box(points)


def test_crop_of_whole_pixels_is_a_slice():
    image = noise(40, 50)
    np.testing.assert_array_equal(crop(image, Box(25, 20, 16), 16), image[12:28, 17:33])


@pytest.mark.parametrize("centre", [(0.0, 0.0), (50.0, 40.0), (-3.5, 20.0), (25.0, 47.0)])
def test_crop_repeats_the_edge_outside(centre):
    image = noise(40, 50)
    box = Box(centre[0], centre[1], 21.0)
    padded = np.pad(image, ((30, 30), (30, 30), (0, 0)), mode="edge")
    np.testing.assert_array_equal(crop(image, box, 21), crop(padded, Box(box.cx + 30, box.cy + 30, 21.0), 21))


def test_crop_averages_when_it_shrinks():
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, ::2] = 255  # stripes finer than the crop's pixels become grey
    small = crop(image, Box(128, 128, 256), 32)
    assert np.abs(small.astype(int) - 128).max() <= 6  # cubic: 5 at the edges


def test_crop_lies_where_the_box_says():
    """A crop at a fractional place and scale samples the picture at box.denormalise of its pixel centres."""
    image, box, size = smooth(200, 300), Box(140.3, 99.8, 120.7), 97
    got = crop(image, box, size).astype(float)
    c = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = box.denormalise(np.stack([c, c], 1)).T
    np.testing.assert_allclose(got[10, :, 0], 128 + 100 * np.sin((x - 0.5) / 17), atol=1.5)
    np.testing.assert_allclose(got[:, 10, 1], 128 + 100 * np.cos((y - 0.5) / 13), atol=1.5)


def test_paste_leaves_everything_outside_the_box():
    image, box = noise(120, 160), Box(70.2, 61.7, 55.5)
    out = Paster(image, box, 64).paste(np.zeros((64, 64, 3), np.uint8))
    y, x = np.mgrid[:120, :160] + 0.5
    inside = (np.abs(x - box.cx) <= box.size / 2) & (np.abs(y - box.cy) <= box.size / 2)
    np.testing.assert_array_equal(out[~inside], image[~inside])
    assert (out[50:74, 58:82] == 0).all()  # the middle is the crop's alone


@pytest.mark.parametrize("box", [Box(150.3, 99.8, 120.7), Box(20, 30, 90.5), Box(290, 190, 140), Box(150, 100, 700)])
def test_paste_of_the_crop_gives_the_portrait_back(box):
    image = smooth(200, 300)
    out = Paster(image, box, 512).paste(crop(image, box, 512))
    assert np.abs(out.astype(int) - image).max() <= 4
    assert np.abs(out.astype(int) - image).mean() < 0.6


def test_paste_blends_softly():
    image = np.zeros((200, 200, 3), np.uint8)
    out = Paster(image, Box(100, 100, 160), 64).paste(np.full((64, 64, 3), 255, np.uint8))
    profile = out[100, 20:101, 0].astype(int)
    assert profile[0] <= 2
    assert profile[-1] == 255
    assert (np.diff(profile) >= 0).all()
    assert np.diff(profile).max() < 25


def test_paste_reuses_out_and_keeps_the_portrait():
    image = noise(100, 100)
    before, out = image.copy(), np.full_like(image, 7)
    paster = Paster(image, Box(50, 50, 60), 32)
    face = noise(32, 32)
    assert paster.paste(face, out=out) is out
    np.testing.assert_array_equal(out, paster.paste(face))
    np.testing.assert_array_equal(image, before)


def test_paste_refuses():
    image = noise(50, 60)
    with pytest.raises(ValueError, match=r"does not overlap the 60 x 50 picture"):
        Paster(image, Box(200, 20, 30), 64)
    paster = Paster(image, Box(30, 25, 30), 64)
    with pytest.raises(ValueError, match=r"face: got uint8 \[32, 64, 3\], need uint8 \[64, 64, 3\]"):
        paster.paste(noise(32, 64))
    with pytest.raises(ValueError, match=r"out: got uint8 \[50, 50, 3\], need uint8 \[50, 60, 3\]"):
        paster.paste(noise(64, 64), out=noise(50, 50))


@pytest.mark.parametrize(
    ("image", "box", "size", "message"),
    [
        (np.zeros((9, 9, 3)), Box(5, 5, 5), 4, r"image: got float64 \[9, 9, 3\]"),
        (np.zeros((9, 9), np.uint8), Box(5, 5, 5), 4, r"image: got uint8 \[9, 9\]"),
        ("face.png", Box(5, 5, 5), 4, "image: got str"),
        (noise(9, 9), Box(5, 5, 5), 0, "size: got 0, need at least 1"),
        (noise(9, 9), Box(5, np.nan, 5), 4, "box: got .* need finite numbers"),
        (noise(9, 9), Box(5, 5, 1e9), 4, "side from 1 to 72 px"),
        (noise(9, 9), Box(5, 5, 0), 4, "side from 1 to 72 px"),
    ],
)
def test_crop_refuses(image, box, size, message):
    with pytest.raises(ValueError, match=message):
        crop(image, box, size)
