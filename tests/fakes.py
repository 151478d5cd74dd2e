"""Stand-ins for the engine and the tracker: quick, and with results that a test can read off the pixels."""

from pathlib import Path

import numpy as np

from fastreenact.face.motion import Motion, MotionClip


class FakeEngine:
    """Gives frames whose gray level counts the steps; remembers what it was asked."""

    model = "fake"
    sees_pictures = False

    def __init__(self, source=None, size=(32, 48), stop_at=None, **options):
        self.output_size, self.options, self.stop_at = size, options, stop_at
        self.source = source
        self.source_picture = np.full((*size, 3), 99, np.uint8)
        self.steps: list[Motion] = []
        self.times: list[float] = []
        self.references: list[Motion | None] = []
        self.resets = 0

    def step(self, driver, *, time=None, avatar=0, out=None):
        if self.stop_at is not None and len(self.steps) == self.stop_at:
            raise KeyboardInterrupt
        out = np.empty((*self.output_size, 3), np.uint8) if out is None else out
        out[:] = 60 + 2 * (len(self.steps) % 60)
        self.steps.append(driver)
        self.times.append(time)
        return out

    def use_reference(self, motion):
        self.references.append(motion)

    def reset(self):
        self.resets += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def fake_tracking(frames, tracker, saw=None):
    """The face turns with the picture's brightness; a black picture shows none."""

    def motion(image, time):
        level = float(image.mean())
        pose = np.array([0, level / 255, 0, 0.1, 0.2, 0.9], np.float32)
        return Motion(pose, np.full(51, level / 510, np.float32), time) if level > 8 else Motion.missing(time)

    return MotionClip.from_motions((motion(*frame) for frame in frames), {"box": "1 2 3"})


def a_template(path: Path, times: list[float], found: bool = True, metadata: dict[str, str] | None = None) -> Path:
    """Save a small motion template."""
    motions = [
        Motion(np.array([0, 0.01 * i, 0, 0, 0, 1], np.float32), np.zeros(51, np.float32), t)
        if found
        else Motion.missing(t)
        for i, t in enumerate(times)
    ]
    MotionClip.from_motions(motions, metadata).save(path)
    return path
