"""Run by test_short_of_memory.py in a process of its own: engines whose address space ends at every point there is.

    python short_of_memory.py COUNT

Prints one JSON list of what came of each: "drawn", or the error's class and text.
"""

import json
import logging
import resource
import sys
from pathlib import Path

import numpy as np
from engine_case import landmarks, make

from fastreenact.models.face2face_rho.networks import random_face2face_rho


class Said(logging.Handler):
    """Counts warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def in_use() -> int:
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(count: int) -> None:
    """Two models in turn, with ever less to spare."""
    said = Said()
    logging.getLogger("fastreenact").addHandler(said)
    weights, found = random_face2face_rho(0), []
    kinds = ({"size": 768}, {"model": "face2face-rho", "weights": weights, "size": 256})
    needs = []
    for kind in kinds:  # starts all threads, too
        before = in_use()
        with make(**kind) as engine:
            engine.step(landmarks(3))
            needs.append(max(in_use() - before, 16 << 20))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    for i in range(count):
        kind, need = kinds[i % 2], needs[i % 2]
        said.count = 0
        # Most of the heap is there already, so that the last few megabytes decide.
        resource.setrlimit(resource.RLIMIT_AS, (int(in_use() + need * (1 - i / count) ** 4), hard))
        try:
            with make(**kind) as engine:
                drawn = [engine.step(landmarks(step)) for step in range(3)]
            outcome = "drawn" if all(np.ptp(frame) > 0 for frame in drawn) else "blank"
        except Exception as error:  # what it is, is the answer
            outcome = f"{type(error).__name__}: {error}"
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        found.append((outcome, said.count))
    print(json.dumps(found))


main(int(sys.argv[1]))
