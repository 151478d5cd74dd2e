"""The smallest model there is, as CONTRIBUTING.md adds one: the portrait with its colours inverted."""

import torch

from fastreenact.models.protocol import Model


class Inverted:
    def __init__(self, side):
        self.side = side

    def encode(self, portrait):
        return torch.from_numpy(255 - (portrait.picture if self.side is None else portrait.crop(self.side)))

    def drive(self, states, cues, out, timer):
        with timer.stage("decode"):
            for state, frame in zip(states, out, strict=True):
                frame.copy_(state)
        return True


def form(weights, size, dtype, device, share, profile):
    return Inverted(size)


MODEL = Model("inverted", "inverts colours", __name__, wants=frozenset(), whole=True, weights="none")
