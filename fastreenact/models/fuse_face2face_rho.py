"""Face2Face^rho in its inference form: folded weights, SPADE tables, cached source channels, channels-last, our ops.

It computes what the plain form does (tests hold the two together) and takes no gradients.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreenact import ops
from fastreenact.models.face2face_rho import (
    BaseEncoder,
    Face2FaceRho,
    MotionNet,
    RenderingNet,
    motion_input_size,
    resize_field,
)
from fastreenact.models.fused_layers import (
    BAND_BYTES,
    Conv,
    FusedPoseEncoder,
    SpadeTable,
    apply_blocks,
    fold,
    fuse_blocks,
    nchw,
    nhwc,
    relu_,
)
from fastreenact.models.head_pose import head_pose_input
from fastreenact.models.layers import DownBlock, ResidualBlock, UpBlock, resize_nearest

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_F3 = 140  # channels of f3 in the joint map f3|f4


@dataclass(frozen=True)
class SourceState:
    """Everything that depends on one source alone; as many may be resident as memory holds."""

    f1: Tensor  # [1, S/4, S/4, 28]
    f2: Tensor  # [1, S/8, S/8, 72]
    f34: Tensor  # [1, S/16, S/16, 140 + 280]: f3 and f4 are sampled at the same places
    motion: tuple[Tensor, Tensor, Tensor]  # source part of the motion network's first convolutions, channels-last
    picture: Tensor | None = None  # uint8 [1, S, S, 3] for weights that draw over a base


def fuse(
    model: Face2FaceRho,
    size: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    motion_size: int | None = None,
) -> "FusedFace2FaceRho":
    """The inference form of `model` for pictures of one size.

    Args:
        model: plain networks with their metadata; left as it is.
        size: side S of the picture, px, 64 to 2048.
        dtype: of activations: float32, bfloat16, or float16 on a GPU. Fields, coordinates and poses stay float32.
        device: where it runs.
        motion_size: fixed size of the motion network, a multiple of 64; None takes the metadata's, or else the next
            multiple of 64.
    Raises:
        ValueError: a size out of range or a dtype that does not run on `device`.
    """
    device = torch.device(device)
    if dtype not in _DTYPES or (dtype == torch.float16 and device.type == "cpu"):
        raise ValueError(f"dtype must be float32, bfloat16 or, on a GPU, float16; got {dtype} on {device}")
    if device.type == "cpu":
        _keep_freed_memory()
    if motion_size is None and model.metadata.get("motion_size"):
        motion_size = int(model.metadata["motion_size"])
    return FusedFace2FaceRho(model, size, dtype, device, motion_input_size(size, motion_size))


def _keep_freed_memory() -> None:
    """Make the C library keep the maps that a step frees for the next step, instead of faulting their pages in anew.

    glibc gives freed memory back to the system beyond twice the largest block that it has seen freed, up to blocks of
    32 MiB. One such block, never touched, settles it for the process: without it the inverted residuals of a step take
    twice as long (at 256: 22 ms instead of 10, on one core) unless chance has freed a large one before.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


class FusedFace2FaceRho:
    """Encodes sources and draws them driven; made by `fuse`. One thread at a time: buffers are shared between calls."""

    def __init__(self, model: Face2FaceRho, size: int, dtype: torch.dtype, device: torch.device, motion_size: int):
        self.size, self.motion_size, self.dtype, self.device = size, motion_size, dtype, device
        self._metadata: Mapping[str, str] = dict(model.metadata)
        with torch.inference_mode():
            self._motion = _FusedMotion(model.motion, motion_size, dtype, device, over_base=model.over_base)
            self._encoder = _FusedEncoder(model.renderer, size, dtype, device)
            self._decoder = _FusedDecoder(model.renderer, size, dtype, device)

    @torch.inference_mode()
    def encode(self, image: Any, keypoints: Any, head_pose: Any) -> SourceState:
        """What `drive` needs to know about a source, computed once.

        Args:
            image: [S, S, 3] uint8 RGB, NumPy or PyTorch.
            keypoints: [72, 2] float in [-1, 1], x right, y down; -1 and 1 are the outer pixel edges.
            head_pose: [6] (rx, ry, rz in rad, tx, ty, scale in normalised units) as ours.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        Source: Face2Face^rho, Sec. 3.2 and 3.4.
        """
        pixels = torch.as_tensor(image)
        if pixels.shape != (self.size, self.size, 3) or pixels.dtype != torch.uint8:
            raise ValueError(
                f"image must be uint8 [{self.size}, {self.size}, 3], got {pixels.dtype} {list(pixels.shape)}"
            )
        pixels = pixels.to(self.device)[None]
        x = nchw(pixels).float() * (2 / 255) - 1
        points, pose = self._points(keypoints), self._pose(head_pose, keypoints)
        f1, f2, f34 = self._encoder(x, pose)
        motion = self._motion.source(self._motion.rasterize(points), x)
        return SourceState(f1, f2, f34, motion, pixels.clone() if self._motion.over_base else None)

    def drive(
        self, state: SourceState, keypoints: Any, head_pose: Any, out: Tensor | None = None, timer: Any = None
    ) -> Tensor:
        """The source of `state`, moved to the driver's keypoints and pose.

        Args:
            state: from `encode` of this object.
            keypoints: [72, 2] of the source's shape with the driver's expression and pose, in [-1, 1].
            head_pose: [6], the driver's, as ours.
            out: [S, S, 3] uint8, written in place, on any device; None makes one on ours that the caller owns.
            timer: has `stage(name)`, a context manager; "decode" is entered twice: its SPADE tables come before "warp".
        Returns:
            [S, S, 3] uint8 RGB: `out` if given.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        Source: Face2Face^rho, Sec. 3.
        """
        if out is None:
            out = torch.empty(self.size, self.size, 3, dtype=torch.uint8, device=self.device)
        elif out.shape != (self.size, self.size, 3) or out.dtype != torch.uint8:
            raise ValueError(f"out must be uint8 [{self.size}, {self.size}, 3], got {out.dtype} {list(out.shape)}")
        with torch.inference_mode():
            image = self.step(state, keypoints, head_pose, timer)
            with _stage(timer, "deliver"):
                if out.device == self.device:
                    ops.to_frame(image, layout="nhwc", tanh=True, out=out[None])
                else:
                    out.copy_(ops.to_frame(image, layout="nhwc", tanh=True)[0])
        return out

    def step(self, state: SourceState, keypoints: Any, head_pose: Any, timer: Any = None) -> Tensor:
        """`drive` without its last stage: [1, S, S, 3] before tanh, in the network's dtype."""
        field = self.move(state, keypoints, None, timer)
        return self.draw(state, keypoints, head_pose, field, None, timer)

    def move(self, state: SourceState, keypoints: Any, base: Tensor | None, timer: Any = None) -> Tensor:
        """The motion network alone.

        Args:
            base: [1, M/4, M/4, 2], the field that it corrects, for weights that draw over a base.
        Returns:
            Its field [1, M/4, M/4, 2] float32; over a base, what is to be added to that.
        """
        points = self._points(keypoints)
        with _stage(timer, "rasterize"):
            drawings = self._motion.rasterize(points)
        with _stage(timer, "motion"):
            moved = None
            if base is not None and state.picture is not None:
                moved = ops.warp(state.picture, base, size=base.shape[1:3], padding="border")
            return self._motion(drawings, state.motion, moved)

    def draw(
        self, state: SourceState, keypoints: Any, head_pose: Any, field: Tensor, base: Tensor | None, timer: Any = None
    ) -> Tensor:
        """The rendering network alone.

        Args:
            field: [1, M/4, M/4, 2] that the source is sampled by.
            base: [1, S, S, 3] float32 in [-1, 1], the picture that is drawn over, for weights that draw over one.
        Returns:
            [1, S, S, 3 or 4] before the last activation, in the network's dtype.
        """
        pose = self._pose(head_pose, keypoints)
        with _stage(timer, "decode"):
            tables = self._decoder.tables(pose)
        with _stage(timer, "warp"):
            self._decoder.warp(state, field, tables, smooth=base is not None)
        with _stage(timer, "decode"):
            return self._decoder(tables, base)

    def _points(self, keypoints: Any) -> Tensor:
        """Keypoints as [1, 72, 2] float32 on the device."""
        points = torch.as_tensor(np.asarray(keypoints, np.float32))
        if points.shape != (72, 2):
            raise ValueError(f"keypoints must be [72, 2], got {list(points.shape)}")
        return points[None].to(self.device)

    def _pose(self, head_pose: Any, keypoints: Any) -> Tensor:
        """The network's pose vector, [1, 6] float32 on the device."""
        return torch.from_numpy(head_pose_input(head_pose, keypoints, self._metadata))[None].to(self.device)


def _stage(timer: Any, name: str) -> contextlib.AbstractContextManager[Any]:
    """The timer's stage, or nothing."""
    return contextlib.nullcontext() if timer is None else timer.stage(name)


def _like(dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor that carries dtype and device."""
    return torch.empty(0, dtype=dtype, device=device)


class _FusedMotion:
    """`MotionNet` with what depends on the source alone taken out of its first convolutions.

    That is the source's drawing and, unless the network sees it moved by a base, its picture.
    """

    def __init__(self, net: MotionNet, size: int, dtype: torch.dtype, device: torch.device, *, over_base: bool):
        like, exact = _like(dtype, device), _like(torch.float32, device)
        self.dtype, self.over_base = dtype, over_base
        self.sizes = (size // 16, size // 8, size // 4)
        firsts: list[tuple[Any, Any]] = [(net.f1_model[0], net.f1_model[1])]
        for down in (net.model1_1[0], net.model2_1[0]):
            firsts.append((down.conv, down.norm))
        self.source_convs, self.driver_convs = [], []
        for conv, norm in firsts:
            weight, bias = fold(conv, norm)
            stride, padding = conv.stride[0], conv.padding[0]
            self.source_convs.append(Conv((weight, bias), exact, stride=stride, padding=padding))
            # What changes stays 0 to 255 here: its offset -1 is constant and belongs to the source part.
            changing = weight[:, 3 : 9 if over_base else 6] * (2 / 255)
            self.driver_convs.append(Conv((changing, None), like, stride=stride, padding=padding))
        self.trunks = [_fuse_trunk(m, like) for m in (net.f1_model[3:], net.model1_2, net.model2_2)]
        # Fields are coordinates: float32 whatever the activations are.
        self.heads = [Conv(fold(m, None), exact, padding=1) for m in (net.f1_motion, net.model1_3, net.model2_3)]
        self.buffers = [torch.empty(1, n, n, 3, dtype=torch.uint8, device=device) for n in self.sizes]

    def rasterize(self, points: Tensor) -> list[Tensor]:
        """[1, 72, 2] -> three drawings uint8 [1, h, h, 3], valid until the next call."""
        return [
            ops.rasterize_landmarks(points, n, layout, out=buffer)
            for layout, (n, buffer) in enumerate(zip(self.sizes, self.buffers, strict=True))
        ]

    def source(self, drawings: list[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First convolutions of what depends on the source alone, with -1 for the rest."""
        parts = []
        for conv, drawing in zip(self.source_convs, drawings, strict=True):
            lines = nchw(drawing).float() * (2 / 255) - 1
            picture = torch.full_like(lines, -1) if self.over_base else resize_nearest(image, *lines.shape[-2:])
            x = torch.cat([lines, torch.full_like(lines, -1), picture], 1)
            parts.append(conv(x.contiguous(memory_format=torch.channels_last)).to(self.dtype))
        return parts[0], parts[1], parts[2]

    def __call__(
        self, drawings: list[Tensor], source: tuple[Tensor, Tensor, Tensor], moved: Tensor | None = None
    ) -> Tensor:
        """Drawings uint8 [1, h, h, 3] -> motion field float32 [1, M/4, M/4, 2].

        `moved` is the picture uint8 [1, M/4, M/4, 3] as a base moves it, where the network sees it so.
        """
        hidden = field = None
        changing = [nchw(drawing.to(self.dtype)) for drawing in drawings]
        if moved is not None:
            picture = nchw(moved.float())
            pictures = (F.avg_pool2d(picture, 4), F.avg_pool2d(picture, 2), picture)
            changing = [torch.cat([x, y.to(self.dtype)], 1) for x, y in zip(changing, pictures, strict=True)]
        for conv, trunk, head, seen, part in zip(
            self.driver_convs, self.trunks, self.heads, changing, source, strict=True
        ):
            x = relu_(conv(seen.contiguous(memory_format=torch.channels_last)).add_(part))
            hidden = trunk(x if hidden is None else x.add_(hidden))
            delta = head(hidden.float())
            field = delta if field is None else delta.add_(F.interpolate(field, scale_factor=2, mode="nearest"))
        if field is None:
            raise ValueError("drawings must hold three pictures, got none")
        return nhwc(field)


def _fuse_trunk(blocks: nn.Module, like: Tensor) -> Any:
    """One function for a sequence of down, residual and up blocks."""
    steps: list[tuple[str, list[Conv]]] = []
    for block in blocks.children():
        if isinstance(block, DownBlock):
            steps.append(("down", [Conv(fold(block.conv, block.norm), like, stride=2, padding=1, relu=True)]))
        elif isinstance(block, UpBlock):
            steps.append(("up", [Conv(fold(block.conv, block.norm), like, padding=1, relu=True)]))
        elif isinstance(block, ResidualBlock):
            first = Conv(fold(block.conv1, block.norm), like, padding=1, relu=True)
            steps.append(("residual", [first, Conv(fold(block.conv2, None), like, padding=1)]))

    def run(x: Tensor) -> Tensor:
        for kind, convs in steps:
            if kind == "residual":
                x = convs[1](convs[0](x)).add_(x)
            else:
                x = convs[0](F.interpolate(x, scale_factor=2, mode="nearest") if kind == "up" else x)
        return x

    return run


class _FusedEncoder:
    """`RenderingNet.encode`, in float32: it runs once per source and its rounding would stay."""

    def __init__(self, net: RenderingNet, size: int, dtype: torch.dtype, device: torch.device):
        like = _like(torch.float32, device)
        self.dtype = dtype
        self.pose = FusedPoseEncoder(net.src_headpose_encoder, device)
        self.first = Conv(fold(net.en_conv_block[0], net.en_conv_block[1]), like, padding=1, relu=True)
        stages = (net.en_down_block1, net.en_down_block2, net.en_down_block3, net.en_res_block)
        spades = (net.en_SPADE1, net.en_SPADE_2, net.en_SPADE_3, net.en_SPADE_4)
        sides = [-(-size // scale) for scale in (4, 8, 16, 16)]
        self.stages = [fuse_blocks(stage, like) for stage in stages]
        self.spades = [SpadeTable(spade, n, n, like) for spade, n in zip(spades, sides, strict=True)]

    def __call__(self, image: Tensor, head_pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[1, 3, S, S] float32 in [-1, 1], [1, 6] -> f1, f2, f3|f4, NHWC."""
        pose = self.pose(head_pose)
        x = self.first(image.contiguous(memory_format=torch.channels_last))
        maps = []
        for stage, spade in zip(self.stages, self.spades, strict=True):
            x = nchw(spade.apply(nhwc(apply_blocks(stage, x)), spade(pose)))
            maps.append(nhwc(x))
        f1, f2, f3, f4 = maps
        return f1.to(self.dtype), f2.to(self.dtype), torch.cat([f3, f4], -1).to(self.dtype)


class _FusedDecoder:
    """`RenderingNet.decode`: the warps write straight into the maps that the SPADE layers share with the decoder."""

    def __init__(self, net: RenderingNet, size: int, dtype: torch.dtype, device: torch.device):
        like = _like(dtype, device)
        self.dtype = dtype
        self.sides = tuple(-(-size // scale) for scale in (2, 4, 8))
        sides = [-(-size // scale) for scale in (16, 16, 8, 4)]
        self.pose = FusedPoseEncoder(net.drv_headpose_encoder, device)
        spades = (net.de_SPADE_1, net.de_SPADE_2, net.de_SPADE_3, net.de_SPADE_4)
        self.spades = [SpadeTable(m, n, n, like) for m, n in zip(spades, sides, strict=True)]
        self.maps = [
            torch.zeros(1, n, n, m.channels, dtype=dtype, device=device)
            for m, n in zip(self.spades, sides, strict=True)
        ]
        self.res = fuse_blocks(net.de_res_block, like)
        self.up1 = fuse_blocks(net.de_up_block1, like)
        self.up2 = fuse_blocks(net.de_up_block2, like)
        self.up3 = [fuse_blocks(net.de_up_block3[i], like) for i in range(2)]
        self.tail = _FusedTail(net, size, like)
        self.seen = None if net.base_encoder is None else _FusedBaseEncoder(net.base_encoder, size, like)

    def tables(self, head_pose: Tensor) -> list[tuple[Tensor, Tensor]]:
        """[1, 6] -> scale and shift tables of the four SPADE layers."""
        pose = self.pose(head_pose).to(self.dtype)
        return [spade(pose) for spade in self.spades]

    def warp(
        self, state: SourceState, field: Tensor, tables: list[tuple[Tensor, Tensor]], *, smooth: bool = False
    ) -> None:
        """The four maps sampled by `field` [1, h, w, 2], SPADE and ReLU applied, into the decoder's maps.

        The field is resized to each of them by nearest index, or bilinearly where `smooth`.
        """
        features = (state.f34[..., _F3:], state.f34[..., :_F3], state.f2, state.f1)
        fields = dict.fromkeys({target.shape[1] for target in self.maps}, field)
        if smooth:
            fields = {n: nhwc(resize_field(nchw(field), n, n).contiguous()).contiguous() for n in fields}
        for feature, spade, table, target in zip(features, self.spades, tables, self.maps, strict=True):
            first = spade.channels - feature.shape[-1]
            spade.warp(feature, fields[target.shape[1]], table, first, target)

    def __call__(self, tables: list[tuple[Tensor, Tensor]], base: Tensor | None) -> Tensor:
        """Warped maps -> picture before tanh, [1, S, S, 3]; 4 over a base [1, S, S, 3]."""
        s2, s4, s8 = self.sides
        seen = None if self.seen is None or base is None else self.seen(base)
        a1, a2, a3, a4 = self.maps
        x = apply_blocks(self.res, nchw(a1))
        self.spades[1].apply(nhwc(x), tables[1], a2)
        x = apply_blocks(self.up1, nchw(a2))
        self.spades[2].apply(nhwc(_double(x, s8)), tables[2], a3)
        if seen is not None:
            a3 += nhwc(seen[0])
        x = apply_blocks(self.up2, nchw(a3))
        self.spades[3].apply(nhwc(_double(x, s4)), tables[3], a4)
        if seen is not None:
            a4 += nhwc(seen[1])
        x = apply_blocks(self.up3[0], nchw(a4))
        x = apply_blocks(self.up3[1], _double(x, s2))
        return self.tail(x if seen is None else x + seen[2])


class _FusedBaseEncoder:
    """`BaseEncoder`."""

    def __init__(self, net: BaseEncoder, size: int, like: Tensor):
        self.size, self.dtype = size, like.dtype
        self.downs = [
            Conv(fold(block.conv, block.norm), like, stride=2, padding=1, relu=True) for block in (net.down1, net.down2)
        ]
        self.to8 = Conv(fold(net.to8, None), like, stride=2, padding=1)
        self.to4, self.to2 = (Conv(fold(conv, None), like, padding=1) for conv in (net.to4, net.to2))

    def __call__(self, base: Tensor) -> list[Tensor]:
        """[1, S, S, 3] in [-1, 1] -> what is added at S/8, S/4, S/2, channels-last [1, C, n, n]."""
        more = -self.size % 8
        x = nchw(base.to(self.dtype))
        if more:
            x = F.pad(x, (0, more, 0, more), mode="replicate").contiguous(memory_format=torch.channels_last)
        x = self.downs[0](x)
        y = self.downs[1](x)
        sides = (-(-self.size // n) for n in (8, 4, 2))
        return [m[..., :n, :n] for n, m in zip(sides, (self.to8(y), self.to4(y), self.to2(x)), strict=True)]


def _double(x: Tensor, side: int) -> Tensor:
    """[1, C, H, W] -> nearest x2, cropped to `side`; channels-last."""
    y = F.interpolate(x, scale_factor=2, mode="nearest")
    return y if y.shape[-1] == side else y[..., :side, :side].contiguous(memory_format=torch.channels_last)


class _FusedTail:
    """Nearest x2, depthwise, 1x1 and the last 3x3: nothing lies between the last two, so that they are one 3x3.

    Zero padding meets the 1x1's bias: at the border the taps outside lack it.
    """

    def __init__(self, net: RenderingNet, size: int, like: Tensor):
        block: Any = net.de_up_block3[2]
        self.size = size
        depthwise, norm, _, pointwise, last_norm = block[0][0].conv
        self.depthwise = Conv(fold(depthwise, norm), like, padding=1, groups=depthwise.groups, relu=True)
        w1, b1 = fold(pointwise, last_norm)
        w2, _ = fold(net.de_conv_block[0], None)
        weight = torch.einsum("omyx,mi->oiyx", w2, w1[:, :, 0, 0])
        taps = torch.einsum("omyx,m->oyx", w2, b1)  # what each tap adds of the bias
        self.last = Conv((weight, taps.sum((1, 2))), like, padding=1)
        inside = F.conv2d(torch.ones(1, 1, size, size, dtype=torch.float64), taps[:, None], padding=1)
        missing = (inside - taps.sum((1, 2))[:, None, None]).permute(0, 2, 3, 1).to(like)
        self.top, self.bottom = missing[:, 0].clone(), missing[:, -1].clone()
        self.left, self.right = missing[:, 1:-1, 0].clone(), missing[:, 1:-1, -1].clone()

    def __call__(self, x: Tensor) -> Tensor:
        """[1, 8, S/2, S/2] channels-last, doubled first -> [1, S, S, 3], or 4 over a base."""
        y = x.new_empty(1, self.size, self.size, self.top.shape[-1])
        half = x.shape[2]
        rows = max(BAND_BYTES // (4 * x[:, :, :1].numel() * x.element_size()), 1)
        for top in range(0, half, rows):
            # Two 3x3 convolutions see two rows beyond the band, one row before doubling.
            above = min(top, 1)
            doubled = F.interpolate(x[:, :, top - above : top + rows + 1], scale_factor=2, mode="nearest")
            doubled = doubled[:, :, : self.size - 2 * (top - above), : self.size]
            band = nhwc(self.last(self.depthwise(doubled.contiguous(memory_format=torch.channels_last))))
            bottom = min(2 * (top + rows), self.size)
            y[:, 2 * top : bottom] = band[:, 2 * above : 2 * above + bottom - 2 * top]
        y[:, 0] += self.top
        y[:, -1] += self.bottom
        y[:, 1:-1, 0] += self.left
        y[:, 1:-1, -1] += self.right
        return y
