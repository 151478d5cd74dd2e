"""ArcFace's IResNet-50: whose face it is, as 512 numbers; and the square that it wants to see."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fastreenact.face.keypoints import NOSE_TIP, PARTS

SIDE = 112  # px
# Where the network expects both eyes, the tip of the nose and the corners of the mouth, px of the 112 x 112 picture.
# Source: insightface, `face_align`; its pixel centres are whole numbers, ours lie half a pixel further.
_PLACES = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) + 0.5
)
_LEFT_CORNER, _RIGHT_CORNER = 52, 57  # of the mouth
_BLOCKS = (3, 4, 14, 3)


def aligned(picture: NDArray[np.uint8], keypoints: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The face, turned and scaled so that eyes, nose and mouth come where ArcFace expects them; black outside.

    Args:
        picture: uint8 [H, W, 3].
        keypoints: [72, 2] px.

    Returns:
        uint8 [112, 112, 3].
    """
    k = np.asarray(keypoints, np.float64)[:, :2]
    eyes = [k[list(PARTS[name])].mean(0) for name in ("left_eye", "right_eye")]
    seen = np.stack([*eyes, k[NOSE_TIP], k[_LEFT_CORNER], k[_RIGHT_CORNER]])
    # Least squares for the similarity from `_PLACES` to where they are seen: x' = a x - b y + c, y' = b x + a y + d.
    x, y, one, none = _PLACES[:, 0], _PLACES[:, 1], np.ones(5), np.zeros(5)
    system = np.concatenate([np.column_stack([x, -y, one, none]), np.column_stack([y, x, none, one])])
    a, b, c, d = np.linalg.lstsq(system, seen.T.reshape(-1), rcond=None)[0].tolist()
    turned = Image.fromarray(np.ascontiguousarray(picture)).transform(
        (SIDE, SIDE), Image.Transform.AFFINE, (a, -b, c, b, a, d), Image.Resampling.BILINEAR
    )
    return np.array(turned)


class ArcFace(nn.Module):
    """IResNet-50, with the parameter names of insightface's PyTorch code.

    Source: Deng et al., ArcFace, 2019, Sec. 3.1 (improved residual unit; BatchNorm, FC, BatchNorm at the end).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(64), nn.PReLU(64)
        before = 64
        for i, blocks in enumerate(_BLOCKS):
            after = 64 << i
            layers = [_Block(before if k == 0 else after, after, 2 if k == 0 else 1) for k in range(blocks)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
            before = after
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * (SIDE // 16) ** 2, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 512], not normalised, of aligned faces [N, 3, 112, 112] in [-1, 1], RGB."""
        x = self.prelu(self.bn1(self.conv1(x)))
        for i in range(len(_BLOCKS)):
            x = self.get_submodule(f"layer{i + 1}")(x)
        out: Tensor = self.features(self.fc(torch.flatten(self.bn2(x), 1)))
        return out


class _Block(nn.Module):
    """BatchNorm, 3x3, BatchNorm, PReLU, 3x3 (with the stride), BatchNorm; and a shortcut."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(after), nn.PReLU(after)
        self.conv2, self.bn3 = nn.Conv2d(after, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out: Tensor = self.bn3(self.conv2(inner)) + self.downsample(x)
        return out
