"""The demo: its template is what the generator makes, its portrait does what the template asks."""

import numpy as np
import pytest

from fastreenact.app import demo
from fastreenact.face.morphable.expressions import EXPRESSION_NAMES

FIELDS = ("pose", "expression", "time", "confidence")


def at(seconds: float) -> int:
    return int(np.abs(demo.load_template().time - seconds).argmin())


@pytest.mark.parametrize("field", FIELDS)
def test_template_that_ships_is_the_one_that_is_built(field):
    np.testing.assert_allclose(getattr(demo.load_template(), field), getattr(demo.build_template(), field), atol=1e-6)


def test_template_asks_for_what_the_sheet_says():
    clip = demo.load_template()
    names = ("jawOpen", "eyeBlinkLeft", "mouthSmileRight", "mouthFunnel")
    where = {name: EXPRESSION_NAMES.index(name) for name in names}
    assert clip.pose[at(0.60), 1] > 0.3 > -0.3 > clip.pose[at(1.10), 1]
    assert clip.pose[at(1.65), 0] > 0.15
    assert clip.pose[at(2.05), 0] < -0.1
    assert clip.expression[at(2.60), where["mouthSmileRight"]] > 0.8
    assert clip.expression[at(2.90), where["eyeBlinkLeft"]] > 0.95
    assert min(clip.expression[at(t), where["jawOpen"]] for t in (3.25, 3.70)) > 0.5
    assert clip.expression[at(3.47), where["mouthFunnel"]] > 0.6
    np.testing.assert_allclose(clip.pose[0], clip.pose[-1], atol=0.02)  # it loops
    np.testing.assert_allclose(clip.expression[0], clip.expression[-1], atol=0.05)


def test_demo_writes_a_video_and_a_sheet_of_a_moving_person(tmp_path):
    for module in ("av", "mediapipe", "skimage"):
        pytest.importorskip(module, reason=f"the demo needs {module}")
    from fastreenact.media import VideoReader, read_image

    video, sheet = demo.run(tmp_path)
    frames = [image for image, _ in VideoReader(video)]
    assert len(frames) == len(demo.load_template())
    first, turned = frames[0].astype(int), frames[at(0.60)].astype(int)
    # At rest it is the portrait, but for the video's coding: 2.9 levels with ten frames of lookahead, 3.1 with six.
    assert np.abs(first - demo.portrait()).mean() < 3.2
    assert np.abs(turned - first).mean() > 2
    assert np.abs(turned - first)[450:].mean() < 2  # the suit rests
    assert read_image(sheet).shape[1] == 5 * 280
