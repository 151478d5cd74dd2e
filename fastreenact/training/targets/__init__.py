"""What can be trained, one file per model."""

from fastreenact.training.targets.face2face_rho import Published
from fastreenact.training.targets.refined_warp import Refined
from fastreenact.training.targets.target import Target

TARGETS: dict[str, Target] = {target.model: target for target in (Refined(), Published())}
