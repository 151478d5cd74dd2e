"""Following one of several faces."""

import numpy as np
import pytest

from fastreenact.face.identities import Identities
from fastreenact.face.tracker import Tracker


def face(x, y, size):
    corners = np.array([(-0.5, -0.5, 0), (0.5, -0.5, 0), (-0.5, 0.5, 0), (0.5, 0.5, 0)], np.float32)
    return corners * size + np.array((x, y, 0), np.float32)


def where(points):
    return None if points is None else float(points[:, 0].mean())


@pytest.mark.parametrize("covered", [0, 10, 60])
@pytest.mark.parametrize("dy", [0, 40, 100])
@pytest.mark.parametrize("ours_behind", [True, False])
def test_crossing_faces_are_not_exchanged(covered, dy, ours_behind):
    """A3: 300 frames; the one behind is not seen for some frames around the crossing."""
    rng = np.random.default_rng(0)
    identities, swaps, seen = Identities(), 0, 0
    for i in range(300):
        ours, other = face(100 + 2.5 * i, 200, 150), face(850 - 2.5 * i, 200 + dy, 125)
        ours, other = (f + rng.normal(size=3).astype(np.float32) for f in (ours, other))
        hidden = abs(i - 150) <= covered / 2 and covered > 0
        faces = [f for f, behind in ((ours, ours_behind), (other, not ours_behind)) if not (hidden and behind)]
        got = identities(faces if i % 2 else faces[::-1])
        swaps += got is other
        seen += got is ours
    assert swaps == 0
    assert seen >= 300 - (covered + 1) * ours_behind


def test_the_largest_is_taken_first_and_again_after_ours_is_gone():
    identities = Identities()
    small, large = face(100, 100, 50), face(400, 100, 90)
    assert identities([small, large]) is large
    larger = face(100, 100, 120)
    assert identities([face(100, 100, 52), large]) is large
    for i in range(95):
        got = identities([larger])
        if i < 85:
            assert got is None, i
    assert got is larger
    assert identities([]) is None


def test_nobody_is_nobody():
    identities = Identities()
    assert identities([]) is None
    only = face(10, 10, 5)
    assert identities([only]) is only


def test_tracker_keeps_crossing_faces_apart():
    pytest.importorskip("mediapipe")
    from PIL import Image

    head = pytest.importorskip("skimage.data").astronaut()[20:240, 120:330]
    large = Image.fromarray(head).resize((231, 242))
    small = Image.fromarray(head[:, ::-1]).resize((168, 176))
    with Tracker(max_faces=2) as tracker:
        for i in range(0, 300, 3):
            scene = Image.new("RGB", (900, 400), (90, 100, 110))
            scene.paste(large, (int(20 + 2 * i), 100))
            scene.paste(small, (int(700 - 2 * i), 110))
            found = tracker(np.array(scene))
            if found is not None:  # while it is covered
                assert abs(where(found.points) - (20 + 2 * i + 103 * 1.1)) < 45, i
        assert found is not None
