"""What one of several processes does in `test_training_processes`: two steps with frozen statistics, then one without.

Arguments: the folder of the run. Each process writes there what its networks hold in the end, as a hash.
"""

import sys
from pathlib import Path

import torch
from training_case import Discs, digest

from fastreenact.training import processes
from fastreenact.training.loop import Trainer
from fastreenact.training.schedule import TrainConfig

CONFIG = TrainConfig(size=64, motion_size=128, steps=3, batch=2, discriminator_from=1, sheet_every=100, seed=3)


def frozen_steps(trainer: Trainer, frozen: bool = True) -> None:
    """BatchNorm by the running statistics: a batch of two is then what two of one are."""
    for net in (trainer.trained.motion, trainer.trained.renderer):
        net.train(not frozen)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with processes.joined(torch.device("cpu")) as device:
        trainer = Trainer(Discs(), out, CONFIG, device=device)
        frozen_steps(trainer)
        trainer.run(progress=lambda progress: frozen_steps(trainer, progress.step < 2))
        (out / f"{processes.rank()}.txt").write_text(digest(trainer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
