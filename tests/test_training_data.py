"""The reader of the VoxCeleb layout: what a pair holds, its order in time, and what happens to broken files."""

import numpy as np
import pytest
import torch
from PIL import Image
from training_case import RNG, Discs, disc, keypoints, write_folder

from fastreenact import ops
from fastreenact.errors import FastreenactError, MediaError
from fastreenact.face.crop import Box
from fastreenact.models.landmark_warp.warp import LandmarkWarp
from fastreenact.training.data.bases import join_bases, landmark_bases
from fastreenact.training.data.batches import (
    Draw,
    Mixture,
    VoxCelebFolder,
    batch_of,
    batches,
    broken_summary,
    draw_landmarks,
    picture_tensor,
)
from fastreenact.training.data.heads import HeadPairs
from fastreenact.training.targets.refined_warp import base_picture


def test_draw_shapes_and_batch_ranges(tmp_path):
    write_folder(tmp_path, {"a#1": [3, 20]})
    data = VoxCelebFolder(tmp_path, 64)
    assert len(data) == 60
    source, drivers, flows = data.draw(RNG(0))
    assert len(drivers) == 1
    assert flows is None
    for frame in (source, *drivers):
        assert frame.image.shape == (64, 64, 3)
        assert frame.mask.shape == (64, 64)
        assert frame.mask.dtype == bool
        assert frame.keypoints.shape == (72, 2)
        assert frame.pose.shape == frame.head_pose.shape == (6,)
    batch = batch_of(data, 0, 0, 3, 128, base=False)
    assert batch.base is None
    assert batch.source.shape == batch.driver.shape == (3, 3, 64, 64)
    assert batch.mask.shape == (3, 1, 64, 64)
    for drawings in (batch.source_landmarks, batch.driver_landmarks):
        assert [tuple(d.shape) for d in drawings] == [(3, 3, 8, 8), (3, 3, 16, 16), (3, 3, 32, 32)]
        assert all(d.min() == -1 and d.max() == 1 for d in drawings)
    assert batch.source.dtype == batch.mask.dtype == batch.source_pose.dtype == torch.float32
    assert batch.source.abs().max() <= 1


def test_earlier_frame_is_the_source_also_where_names_sort_otherwise(tmp_path):
    write_folder(tmp_path, {"a#1": [9, 10]})  # "10" < "9" as text
    data = VoxCelebFolder(tmp_path, 64)
    for seed in range(5):
        source, (driver,), _ = data.draw(RNG(seed))
        assert source.head_pose[3] == pytest.approx(0.09)
        assert driver.head_pose[3] == pytest.approx(0.10)


def test_draw_belongs_together(tmp_path):
    write_folder(tmp_path, {"a#1": [0, 25]}, size=64)
    data = VoxCelebFolder(tmp_path, 64)
    _, (driver,), _ = data.draw(RNG(0))
    picture, inside = disc(64, 0.25, (200, 140, 120))
    assert np.array_equal(driver.image, picture)
    assert np.array_equal(driver.mask, inside)
    assert np.allclose(driver.keypoints, keypoints(0.25), atol=1e-6)
    batch = batch_of(data, 0, 0, 1, 128, base=False)
    drawn = ops.rasterize_landmarks(torch.from_numpy(keypoints(0.25))[None], 32, 2).permute(0, 3, 1, 2)
    assert torch.allclose(batch.driver_landmarks[2], drawn / 127.5 - 1, atol=1e-6)
    assert torch.equal(batch.driver[0], picture_tensor(picture))
    assert not torch.equal(batch.source_landmarks[2], batch.driver_landmarks[2])


def test_same_random_state_same_pair(tmp_path):
    write_folder(tmp_path, {"a#1": [1, 2, 3, 4], "a#2": [5, 6, 7], "b#1": [8, 9]})
    one, other = VoxCelebFolder(tmp_path, 64), VoxCelebFolder(tmp_path, 64)
    assert len(one) == 120  # two people
    wanted = [one.draw(RNG(seed)) for seed in range(4)]
    for seed in (3, 1, 0, 2):  # whatever was asked before
        assert np.array_equal(other.draw(RNG(seed)).drivers[0].image, wanted[seed].drivers[0].image)
        assert np.array_equal(other.draw(RNG(seed)).source.image, wanted[seed].source.image)


def test_a_mask_counts_only_where_it_is_full(tmp_path):
    write_folder(tmp_path, {"a#1": [3, 20]}, size=64)
    mask = np.full((64, 64), 254, np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(tmp_path / "a#1" / "mask" / "20.png")
    on = VoxCelebFolder(tmp_path, 64).draw(RNG(0)).drivers[0].mask
    assert on[:8].all()
    assert not on[8:].any()


def test_masks_are_optional(tmp_path):
    write_folder(tmp_path, {"a#1": [3, 20]}, masks=False)
    data = VoxCelebFolder(tmp_path, 64)
    assert not data.draw(RNG(0)).drivers[0].mask.any()
    assert data.broken == {}
    assert broken_summary(data) == "nothing skipped"


def test_broken_files_are_skipped_and_listed(tmp_path):
    write_folder(tmp_path, {"a#1": [1, 2, 3, 4, 5, 6, 7], "b#1": [1, 2], "c#1": [1]})
    with (tmp_path / "list.txt").open("a") as listing:
        listing.write("\ngone#1\n")
    video = tmp_path / "a#1"
    (video / "landmark" / "1.txt").unlink()
    (video / "landmark" / "2.txt").write_text("0.1 0.2\n")
    (video / "headpose" / "3.txt").write_text("0 0 nan 0 0 0")
    (video / "headpose" / "4.txt").write_text("0 0 zero 0 0 0")
    (video / "img" / "5.png").write_bytes(b"no picture")
    (video / "img" / "cover.jpg").write_bytes(b"")
    (video / "img" / "notes.txt").write_text("ignored")
    (tmp_path / "b#1" / "mask" / "2.png").write_bytes(b"\x89PNG")
    data = VoxCelebFolder(tmp_path, 64)
    for seed in range(40):
        source, (driver,), _ = data.draw(RNG(seed))
        assert source.head_pose[3] == pytest.approx(0.06)
        assert driver.head_pose[3] == pytest.approx(0.07)
    expected = {
        "a#1/img/1.png": "has no landmark file",
        "a#1/img/2.png": "landmark/2.txt holds 2 numbers, need 144",
        "a#1/img/3.png": "headpose/3.txt holds numbers that are not finite",
        "a#1/img/4.png": "could not convert string to float",
        "a#1/img/5.png": "cannot be read as a picture",
        "a#1/img/cover.jpg": "its name is not a number",
        "b#1/img/2.png": "cannot be read as a picture",
        "c#1": "has 1 usable frames, two are needed",
        "gone#1": "has no folder img",
    }
    assert set(data.broken) == set(expected)
    for path, reason in expected.items():
        assert reason in data.broken[path]
    assert broken_summary(data).startswith("9 skipped: ")
    fresh = VoxCelebFolder(tmp_path, 64)  # knowing what is broken does not change what is drawn
    assert np.array_equal(fresh.draw(RNG(39)).drivers[0].image, driver.image)


def test_folder_refused(tmp_path):
    with pytest.raises(MediaError, match=r"list\.txt is missing"):
        VoxCelebFolder(tmp_path, 64)
    write_folder(tmp_path, {"a#1": [1]})
    with pytest.raises(MediaError, match="no video in it has two usable frames"):
        VoxCelebFolder(tmp_path, 64)
    write_folder(tmp_path / "all", {"a#1": [1, 2]})
    for n in (1, 2):
        (tmp_path / "all" / "a#1" / "img" / f"{n}.png").write_bytes(b"")
    with pytest.raises(FastreenactError, match=r"100 pairs in a row .* skipped: a#1/img/"):
        VoxCelebFolder(tmp_path / "all", 64).draw(RNG(0))


class Three(Discs):
    """Three drivers a source."""

    def draw(self, rng: np.random.Generator) -> Draw:
        return Draw(super().draw(rng).source, [super(Three, self).draw(rng).source for _ in range(3)])


def test_a_batch_takes_as_many_draws_as_it_needs():
    data = Three()
    draws = [data.draw(RNG((3, 0, 5, place))) for place in range(2)]
    batch = batch_of(data, 3, 5, 4, 128, base=False)
    assert batch.source.shape == (4, 3, 64, 64)
    assert batch.driver_landmarks[1].shape == (4, 3, 16, 16)
    for i, (draw, driver) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0)]):
        assert torch.equal(batch.source[i], picture_tensor(draws[draw].source.image))
        assert torch.equal(batch.driver[i], picture_tensor(draws[draw].drivers[driver].image))
        assert torch.equal(batch.driver_pose[i], torch.from_numpy(draws[draw].drivers[driver].head_pose))
        assert torch.equal(batch.mask[i, 0] == 1, torch.from_numpy(draws[draw].drivers[driver].mask))


def test_batches_used_again_are_of_the_last_ones_and_the_same_after_a_break():
    data = Discs()
    fresh = {number: batch_of(data, 7, number, 2, 128, base=False).driver for number in range(7)}

    def taken(steps: range) -> list[int]:
        found = []
        for batch in batches(data, 7, steps, 2, 128, base=False, reuse=3):
            (number,) = (n for n, driver in fresh.items() if torch.equal(driver, batch.driver))
            found.append(number)
        return found

    numbers = taken(range(21))
    assert numbers[::3] == list(range(7))  # every third is new
    assert all(number <= step // 3 for step, number in enumerate(numbers))
    assert len(set(numbers[-2:] + numbers[-5:-3])) > 1
    assert taken(range(8, 21)) == numbers[8:]


def test_the_base_is_the_landmark_warp():
    """Composed from its parts with an offset of nothing it is what the landmark warp draws, to rounding."""
    data = HeadPairs(96, first=3, people=1)
    source, drivers, _ = data.draw(RNG(2))
    batch = batch_of(data, 0, 0, 4, 64, base=True)
    assert batch.base is not None
    assert batch.base.field.shape == (4, 2, 96, 96)
    bases = join_bases(landmark_bases(source, drivers))
    warp = LandmarkWarp(96, 96)
    state = warp.encode(source.image, source.keypoints, source.pose, Box(48, 48, 96))
    picture = picture_tensor(source.image).expand(len(drivers), -1, -1, -1)
    found = (base_picture(picture, bases, torch.zeros(len(drivers), 8, 8, 2)) + 1) * 127.5
    moved = (base_picture(picture, bases, torch.full((len(drivers), 8, 8, 2), 0.1)) + 1) * 127.5
    for i, driver in enumerate(drivers):
        wanted = warp.drive(state, driver.keypoints, driver.pose).permute(2, 0, 1).float()
        assert (found[i] - wanted).abs().max() <= 1.5
        assert (moved[i] - wanted).abs().mean() > 2
    assert bases.opacity.max() > 0.9  # some mouth or eye is open


def test_landmarks_outside_the_picture_are_drawn_as_far_as_they_are_in():
    drawn = draw_landmarks(keypoints(5.0)[None], 128)
    assert all((d == -1).all() for d in drawn)


def test_published_sample(shared):
    """The sample folder that was published with the official training code."""
    folder = shared / "data" / "rho" / "trainingset" / "VoxCeleb"
    if not folder.is_dir():
        pytest.skip("needs the VoxCeleb sample in ../shared")
    data = VoxCelebFolder(folder, 256)
    _, (driver,), _ = data.draw(np.random.default_rng(0))
    assert len(data) == 120
    assert data.broken == {}
    assert 0.02 < driver.mask.mean() < 0.5
    assert 0.001 < driver.head_pose[5] < 0.003
    assert 0.3 < driver.pose[5] < 0.9  # half a face width in normalised units
    assert np.array_equal(driver.pose[:3], driver.head_pose[:3])
    # The drawn nose lies on the face mask: picture, mask and landmarks are of one frame and one convention.
    drawn = draw_landmarks(driver.keypoints[None], 256)[2][0]
    nose = (drawn[0] == 1) & (drawn[1] == -1) & (drawn[2] == 1)
    assert nose.sum() > 5
    assert driver.mask[2::4, 2::4][nose.numpy()].mean() > 0.9


def test_mixture_draws_by_shares():
    class Marked(Discs):
        def __init__(self, mark: int):
            super().__init__()
            self.broken = {f"{mark}.jpg": "is broken"}
            self.mark = mark

        def draw(self, rng: np.random.Generator) -> Draw:
            drawn = super().draw(rng)
            return drawn._replace(source=drawn.source._replace(image=np.full((64, 64, 3), self.mark, np.uint8)))

    both = Mixture({"a": Marked(1), "b": Marked(2)}, {"b": 3.0})
    assert (both.size, both.metadata, len(both)) == (64, Discs().metadata, 16)
    rng = RNG(0)
    seen = np.array([both.draw(rng).source.image[0, 0, 0] for _ in range(400)])
    assert set(seen) == {1, 2}
    assert (seen == 2).mean() == pytest.approx(0.75, abs=0.07)
    assert both.broken == {"a/1.jpg": "is broken", "b/2.jpg": "is broken"}


def test_mixture_refuses():
    other = Discs()
    other.metadata = {"head_pose": "official"}
    for parts in ({"a": Discs(), "b": Discs(96)}, {"a": Discs(), "b": other}):
        with pytest.raises(ValueError, match="b has another size or head pose convention"):
            Mixture(parts, {})
    with pytest.raises(ValueError, match="c is not among the data"):
        Mixture({"a": Discs()}, {"c": 1.0})
    with pytest.raises(ValueError, match="a must be above 0"):
        Mixture({"a": Discs()}, {"a": float("nan")})
