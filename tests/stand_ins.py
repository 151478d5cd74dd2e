"""Small models with the calls and cues of those that are to come: what the contract has to carry.

Each draws a plain colour, made of what it was offered, so that a test can tell what arrived.
"""

import numpy as np
import torch

from fastreenact.errors import WeightsError
from fastreenact.face.crop import crop_box
from fastreenact.models.protocol import Model

SIDE = 64


class StandIn:
    """Draws squares of one colour; `levels` of a frame are three numbers from 0 to 255."""

    def __init__(self, side=None, share=1):
        self.side, self.share = side or SIDE, share

    def drive(self, states, cues, out, timer):
        with timer.stage("decode"):
            for state, cue, frame in zip(states, cues, out, strict=True):
                levels = np.clip(np.asarray(self.levels(state, cue), np.float64), 0, 255)
                frame[:] = torch.from_numpy(levels.round().astype(np.uint8)).to(frame.device)
        return True


class MegaPortraits(StandIn):
    """Appearance from the source, motion from the driver's aligned crop."""

    def encode(self, portrait):
        return portrait.crop(self.side).mean(axis=(0, 1))

    def levels(self, state, cue):
        face = cue.face
        aligned = face.crop(self.side, crop_box(face.keypoints_px))
        assert aligned is face.crop(self.side, crop_box(face.keypoints_px))  # cut once
        assert aligned.shape == (self.side, self.side, 3)
        return 0.5 * state + 0.5 * aligned.mean(axis=(0, 1))


class IdentityPreserving(StandIn):
    """LD-Net + FD-GAN: 68 landmarks of both people."""

    def encode(self, portrait):
        assert portrait.landmarks.shape == (68, 2)
        return portrait.box.normalise(portrait.landmarks), portrait.crop(self.side)

    def levels(self, state, cue):
        driver = cue.face.box.normalise(cue.face.landmarks)
        assert driver.shape == (68, 2)
        return 128 + 1000 * (driver - state[0])[:17].mean(), 1000 * np.ptp(driver[:, 0]) % 255, 30


class Pasl(StandIn):
    """Codes of shape, expression and pose of both, and a depth picture of the driver's."""

    def encode(self, portrait):
        assert portrait.shape.shape == (50,)
        return portrait.shape, portrait.motion

    def levels(self, state, cue):
        _, rest = state
        assert rest.expression.shape == cue.motion.expression.shape == (51,)
        depth = np.zeros((self.side, self.side))
        at = ((cue.keypoints + 1) / 2 * self.side).astype(int).clip(0, self.side - 1)
        depth[at[:, 1], at[:, 0]] = 1 + cue.motion.pose[1]
        return 100 * cue.motion.expression.max(), 128 + 100 * (cue.motion.pose[1] - rest.pose[1]), 255 * depth.mean()


class LivePortrait(StandIn):
    """Implicit keypoints, from a 256 crop of driver and source."""

    def encode(self, portrait):
        return self.implicit(portrait.crop(256))

    def implicit(self, crop):
        assert crop.shape == (256, 256, 3)
        return crop[::64, ::64].reshape(-1, 3)[:21].astype(np.float64)

    def levels(self, state, cue):
        return 128 + (self.implicit(cue.face.crop(256)) - state).mean(axis=0)


class Student(StandIn):
    """Weights that know one person only."""

    def __init__(self, person, side=None, share=1):
        super().__init__(side, share)
        self.person = person

    def encode(self, portrait):
        if abs(portrait.picture.mean() - self.person) > 1:
            raise WeightsError("these weights are of another person: train them for this portrait")
        return self.person

    def levels(self, state, cue):
        return state, 128 + 100 * cue.pose[1], 0


KINDS = {
    "mega-stand-in": (MegaPortraits, ("picture", "points")),
    "identity-stand-in": (IdentityPreserving, ("landmarks",)),
    "pasl-stand-in": (Pasl, ("motion", "keypoints")),
    "live-stand-in": (LivePortrait, ("picture",)),
    "student-stand-in": (Student, ("keypoints", "pose")),
}


class Home:
    """The loader of one of them; counts what was made, and fails where a test says so."""

    def __init__(self, kind):
        self.kind, self.made, self.fails = kind, [], 0

    def load(self, path):
        return float(path.read_text())

    def form(self, weights, size, dtype, device, share, profile):
        self.made.append((dtype, share))
        if len(self.made) <= self.fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return self.kind(size, share) if weights is None else self.kind(weights, size, share)


def describe(name, home):
    """Its line of the table; the loader is given, instead of a module's name."""

    class Described(Model):
        @property
        def loader(self):
            return home

    return Described(name, "a stand-in", "", frozenset(KINDS[name][1]), shares=(1, 2), weights="none")
