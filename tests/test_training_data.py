"""The reader of the VoxCeleb layout: what a pair holds, its order in time, and what happens to broken files."""

import numpy as np
import pytest
import torch
from PIL import Image
from training_case import RNG, Discs, disc, keypoints, write_folder

from fastreenact import ops
from fastreenact.errors import FastreenactError, MediaError
from fastreenact.training.data import VoxCelebFolder, collate, draw_landmarks, picture_tensor


def test_pair_shapes_and_ranges(tmp_path):
    write_folder(tmp_path, {"a#1": [3, 20]})
    data = VoxCelebFolder(tmp_path, 64, 128)
    pair = data.pair(RNG(0))
    assert len(data) == 60
    assert pair.source.shape == pair.driver.shape == (3, 64, 64)
    assert pair.mask.shape == (1, 64, 64)
    for drawings in (pair.source_landmarks, pair.driver_landmarks):
        assert [tuple(d.shape) for d in drawings] == [(3, 8, 8), (3, 16, 16), (3, 32, 32)]
        assert all(d.min() == -1 and d.max() == 1 for d in drawings)
    assert pair.source.dtype == pair.mask.dtype == pair.source_pose.dtype == torch.float32
    assert pair.source.abs().max() <= 1
    assert pair.source.is_contiguous()


def test_earlier_frame_is_the_source_also_where_names_sort_otherwise(tmp_path):
    write_folder(tmp_path, {"a#1": [9, 10]})  # "10" < "9" as text
    data = VoxCelebFolder(tmp_path, 64, 128)
    for seed in range(5):
        pair = data.pair(RNG(seed))
        assert pair.source_pose[3].item() == pytest.approx(0.09)
        assert pair.driver_pose[3].item() == pytest.approx(0.10)


def test_pair_belongs_together(tmp_path):
    write_folder(tmp_path, {"a#1": [0, 25]}, size=64)
    pair = VoxCelebFolder(tmp_path, 64, 128).pair(RNG(0))
    picture, inside = disc(64, 0.25, (200, 140, 120))
    assert torch.equal(pair.driver, picture_tensor(picture))
    assert torch.equal(pair.mask[0] == 1, torch.from_numpy(inside))
    drawn = ops.rasterize_landmarks(torch.from_numpy(keypoints(0.25))[None], 32, 2)[0].permute(2, 0, 1)
    assert torch.allclose(pair.driver_landmarks[2], drawn / 127.5 - 1, atol=1e-6)
    assert not torch.equal(pair.source_landmarks[2], pair.driver_landmarks[2])


def test_same_random_state_same_pair(tmp_path):
    write_folder(tmp_path, {"a#1": [1, 2, 3, 4], "a#2": [5, 6, 7], "b#1": [8, 9]})
    one, other = VoxCelebFolder(tmp_path, 64), VoxCelebFolder(tmp_path, 64)
    assert len(one) == 120  # two people
    wanted = [one.pair(RNG(seed)) for seed in range(4)]
    for seed in (3, 1, 0, 2):  # whatever was asked before
        assert torch.equal(other.pair(RNG(seed)).driver, wanted[seed].driver)
        assert torch.equal(other.pair(RNG(seed)).source, wanted[seed].source)


def test_a_mask_counts_only_where_it_is_full(tmp_path):
    write_folder(tmp_path, {"a#1": [3, 20]}, size=64)
    mask = np.full((64, 64), 254, np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(tmp_path / "a#1" / "mask" / "20.png")
    on = VoxCelebFolder(tmp_path, 64).pair(RNG(0)).mask[0]
    assert on[:8].all()
    assert not on[8:].any()


def test_masks_are_optional(tmp_path):
    write_folder(tmp_path, {"a#1": [3, 20]}, masks=False)
    data = VoxCelebFolder(tmp_path, 64)
    assert not data.pair(RNG(0)).mask.any()
    assert data.broken == {}
    assert data.broken_summary() == "nothing skipped"


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
        pair = data.pair(RNG(seed))
        assert pair.source_pose[3].item() == pytest.approx(0.06)
        assert pair.driver_pose[3].item() == pytest.approx(0.07)
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
    assert data.broken_summary().startswith("9 skipped: ")
    fresh = VoxCelebFolder(tmp_path, 64)  # knowing what is broken does not change what is drawn
    assert torch.equal(fresh.pair(RNG(39)).driver, pair.driver)


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
        VoxCelebFolder(tmp_path / "all", 64).pair(RNG(0))
    with pytest.raises(ValueError, match="multiple of 64"):
        VoxCelebFolder(tmp_path / "all", 64, 100)


def test_collate_stacks_everything():
    data = Discs()
    pairs = [data.pair(RNG(seed)) for seed in range(3)]
    batch = collate(pairs)
    assert batch.source.shape == (3, 3, 64, 64)
    assert batch.driver_landmarks[1].shape == (3, 3, 16, 16)
    assert batch.mask.shape == (3, 1, 64, 64)
    assert torch.equal(batch.driver_landmarks[2][1], pairs[1].driver_landmarks[2])
    assert torch.equal(batch.source_pose[2], pairs[2].source_pose)


def test_landmarks_outside_the_picture_are_drawn_as_far_as_they_are_in():
    drawn = draw_landmarks(keypoints(5.0), 128)
    assert all((d == -1).all() for d in drawn)


def test_published_sample(shared):
    """The sample folder that was published with the official training code."""
    folder = shared / "data" / "rho" / "trainingset" / "VoxCeleb"
    if not folder.is_dir():
        pytest.skip("needs the VoxCeleb sample in ../shared")
    data = VoxCelebFolder(folder, 256)
    pair = data.pair(np.random.default_rng(0))
    assert len(data) == 120
    assert data.broken == {}
    assert 0.02 < pair.mask.mean() < 0.5
    assert 0.001 < pair.driver_pose[5] < 0.003
    # The drawn nose lies on the face mask: picture, mask and landmarks are of one frame and one convention.
    nose = (pair.driver_landmarks[2][0] == 1) & (pair.driver_landmarks[2][1] == -1) & (pair.driver_landmarks[2][2] == 1)
    assert nose.sum() > 5
    assert pair.mask[0, 2::4, 2::4][nose].mean() > 0.9
