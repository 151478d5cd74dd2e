"""The converter of a made-up model whose authors gave out three files: each becomes a tensor of that name."""

import torch
from safetensors.torch import save_file


def write(checkpoints, out, size):
    tensors = {checkpoint.path.name: checkpoint.state["value"] for checkpoint in checkpoints}
    save_file(tensors | {"size": torch.tensor([size])}, out)
