"""The refined landmark warp from keypoints to 8-bit frames in one replay, N frames at once: on a GPU one graph.

Portraits of one picture size and one distance of nodes share their replays: what differs between them lies in slabs and
tables on the device, and a number chooses. Only keypoints, poses and that number go there from step to step.
"""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastreenact import ops
from fastreenact.face.crop import Box, crop
from fastreenact.fuse.slabs import Place, Slabs
from fastreenact.fuse.staging import StagingBuffer
from fastreenact.models.landmark_warp.device import pack_head
from fastreenact.models.landmark_warp.warp import LandmarkWarp, State, checked
from fastreenact.models.refined_warp import tables
from fastreenact.models.refined_warp.fused import RefinedNetworks
from fastreenact.models.refined_warp.inference import checked_portrait
from fastreenact.models.refined_warp.networks import MOST_GAIN
from fastreenact.ops.landmark_place import FRAME_BYTES
from fastreenact.timings import GRAPH, Timer

_MOST_STEPS = 4  # numbers of frames at once that a group keeps ready
_IMAGE, _HEAD = -2, -1  # among the slabs, behind those of the networks


class Kind(NamedTuple):
    """What portraits of one group have in common."""

    height: int  # px, of the picture
    width: int
    step: int  # px between nodes
    coarse: int  # nodes from one to the next around the head
    samples: int  # per pixel and axis of what the networks see


@dataclass(frozen=True, eq=False)
class ReplayedState:
    """One resident portrait."""

    group: "Group"
    place: Place
    warp: State  # keeps the layers' images, whose addresses the head has
    tables: tuple[Tensor, ...]  # one of each of `Frames.tables`


class Frames:
    """The replay of one number of frames at once, with its buffers."""

    def __init__(self, n: int, kind: Kind, networks: RefinedNetworks, slabs: list[Tensor]) -> None:
        self._kind, self._slabs, self._networks = kind, slabs, networks
        device = networks.device
        h, w = -(-kind.height // kind.step), -(-kind.width // kind.step)
        self._size = h * kind.step, w * kind.step  # the last nodes may reach beyond the picture
        self.staging = StagingBuffer(n, *self._size, device, poses=2, keeps_frames=True)
        self.step = networks.step_on(self.staging, n)
        self._replay: ops.Replay | None = None
        side = networks.motion_size // 4
        shapes = ((side, side, 2), (1, 1, 2), (side, side, 2), (2, 2, 2), (h, w, 2))
        # Where each cell of the networks' field reads the nodes, its factor and summand; where each node reads that
        # field, and its factor; the box, centre x, centre y and side in px, and its fade.
        self.tables = [torch.zeros(n, *shape, device=device) for shape in shapes]
        self.tables.append(torch.zeros(n, 4, dtype=torch.float64, device=device))
        self._shown: list[weakref.ref[Place]] = []  # whose numbers are in the tables; weak: what is gone is free
        self._one = torch.ones(1, side, side, 2, device=device)
        self._along = torch.arange(side, dtype=torch.int32, device=device)
        self._frames = torch.zeros(n, FRAME_BYTES, dtype=torch.uint8, device=device)
        self._nodes, self._moved = (torch.zeros(n, h, w, 2, device=device) for _ in range(2))

    def drive(
        self, states: Sequence[ReplayedState], read: Sequence[Sequence[NDArray[np.float32]]], out: Tensor, timer: Timer
    ) -> None:
        """Keypoints, the networks' pose and our pose of each frame -> uint8 [N, H, W, 3], on any device."""
        places = [state.place for state in states]
        if [shown() for shown in self._shown] != places:  # seldom: outside of the graph, in the stream's order
            for i, state in enumerate(states):
                for table, own in zip(self.tables, state.tables, strict=True):
                    table[i].copy_(own)
            self._shown = [weakref.ref(place) for place in places]
        self.staging.send(read, [place.index for place in places])
        if self._replay is None:
            networks = self._networks
            self._replay = ops.Replay(self._body, networks.device, profile=networks.profile)
        self._replay(timer)
        if out.device.type == "cpu" and self.staging.device.type != "cpu":
            self.staging.receive(out)
        else:
            out.copy_(self.staging.frame[:, : out.shape[1], : out.shape[2]])

    def _body(self, replay: ops.Replay) -> None:
        kind, step, index, slabs = self._kind, self.step, self.staging.source_index, self._slabs
        cells, cell_scale, cell_shift, places, node_scale, boxes = self.tables
        surface, side = self.staging.frame, cells.shape[1]
        picture = surface[:, : kind.height, : kind.width]
        replay.mark("motion")
        ops.landmark_place(slabs[_HEAD], index, self.staging.points, self.staging.poses[1], self._frames)
        size = (kind.height, kind.width)
        ops.landmark_nodes(self._frames, kind.step, kind.coarse, size, out=self._nodes)
        ops.warp(
            self._nodes,
            cells,
            size=(side, side),
            padding="border",
            scale=cell_scale.expand(-1, side, side, -1),
            shift=cell_shift,
            out=step.base_field,
        )
        step.move(replay, slabs)
        replay.mark("warp")
        offset = step.motion.field
        ops.warp(
            offset,
            places,
            size=self._nodes.shape[1:3],
            padding="border",
            field_resize="bilinear",
            scale=node_scale,
            shift=self._nodes,
            out=self._moved,
        )
        ops.warp(
            slabs[_IMAGE],
            self._moved,
            source_index=index,
            size=self._size,
            padding="border",
            field_resize="bilinear",
            out=surface,
        )
        ops.landmark_covers(self._frames, picture)
        ops.shrink(picture, None, step.base.shape[1], samples=kind.samples, boxes=boxes, out=step.base)
        ops.spade(offset, self._one, step.base_field, self._along, self._along, activation=None, out=step.field)
        step.draw(replay, slabs)
        replay.mark("deliver")
        ops.compose_frame(step.decoder.raw, picture, None, most_gain=MOST_GAIN, flag=step.flag, boxes=boxes)


class Group:
    """Portraits of one kind, and the replays that draw them."""

    def __init__(self, kind: Kind, networks: RefinedNetworks) -> None:
        self._kind, self._networks = kind, networks
        self._slabs = Slabs(networks.dtype, networks.device, self._forget)
        self._frames: OrderedDict[int, Frames] = OrderedDict()  # by number of frames, the last one used last

    def add(self, warp: State, parts: list[Tensor]) -> ReplayedState:
        """A portrait with the networks' parts of it."""
        place = self._slabs.put([*parts, warp.image, pack_head(warp)[None]])
        return ReplayedState(self, place, warp, self._tables(warp.box))

    def drive(
        self,
        states: Sequence[ReplayedState],
        keypoints: Sequence[ArrayLike],
        poses: Sequence[ArrayLike],
        out: Tensor,
        timer: Timer,
    ) -> bool:
        """N frames into `out` uint8 [N, H, W, 3], on any device; whether all was finite."""
        frames, networks = self._frames_of(len(states)), self._networks
        read = [checked(*pair) for pair in zip(keypoints, poses, strict=True)]
        inputs = [(*networks.read(points, pose), pose) for points, pose in read]
        with torch.inference_mode():
            if networks.profile or networks.device.type == "cpu":
                frames.drive(states, inputs, out, timer)
            else:
                with timer.stage(GRAPH):
                    frames.drive(states, inputs, out, timer)
        return frames.step.finite()

    def _frames_of(self, n: int) -> Frames:
        """The replay of `n` frames; of more than four the one that was not used for longest is forgotten."""
        if n not in self._frames:
            if len(self._frames) == _MOST_STEPS:
                self._frames.popitem(last=False)
            with torch.inference_mode(False), torch.no_grad():
                self._frames[n] = Frames(n, self._kind, self._networks, self._slabs.tensors)
        self._frames.move_to_end(n)
        return self._frames[n]

    def _tables(self, box: Box) -> tuple[Tensor, ...]:
        """One portrait's part of `Frames.tables`."""
        height, width, step = self._kind[:3]
        h, w = -(-height // step), -(-width // step)
        fade = tables.fade_of(box, height, width)
        cells = tables.cells(self._networks.motion_size // 4, box, height, width, step)
        nodes = tables.nodes(box, fade, height, width, step, (0, 0, w, h))
        scale = np.broadcast_to(nodes.scale, (h, w, 2)).copy()
        own = np.array((box.cx, box.cy, box.size, fade), np.float64)
        parts = (cells.where[0], cells.scale[None, None], cells.shift[0], nodes.where[0], scale, own)
        return tuple(torch.from_numpy(part).to(self._networks.device) for part in parts)

    def _forget(self) -> None:
        self._frames.clear()  # they know the old addresses


class ReplayedRefinedWarp:
    """Encodes portraits and draws them driven. One thread at a time: buffers are shared between calls."""

    def __init__(self, networks: RefinedNetworks, size: int | None):
        """As of `FusedRefinedWarp`."""
        self.size, self._networks = size, networks
        # A group is gone with its last portrait.
        self._groups: weakref.WeakValueDictionary[Kind, Group] = weakref.WeakValueDictionary()

    def encode(
        self, image: ArrayLike | Tensor, keypoints: ArrayLike, pose: ArrayLike, box: Box | None = None
    ) -> ReplayedState:
        """Make a portrait resident; arguments and errors as of `FusedRefinedWarp.encode`."""
        picture, square = checked_portrait(image, box, self.size)
        networks, (height, width) = self._networks, picture.shape[:2]
        warp = LandmarkWarp(height, width, networks.dtype, networks.device).encode(picture, keypoints, pose, square)
        samples = tables.samples_of(square, networks.size)
        kind = Kind(height, width, warp.grid.step, warp.grid.coarse, samples)
        group = self._groups.get(kind)
        if group is None:
            group = self._groups[kind] = Group(kind, networks)
        return group.add(warp, networks.parts(crop(picture, square, networks.size), keypoints, pose))

    def drive(
        self,
        states: Sequence[ReplayedState],
        keypoints: Sequence[ArrayLike],
        poses: Sequence[ArrayLike],
        out: Tensor,
        timer: Timer,
    ) -> bool:
        """Frames of portraits of one picture size into `out` uint8 [N, H, W, 3], on any device: one replay for those
        whose nodes are as far apart.

        Returns:
            Whether all was finite, as far as it shows; float32 is not asked.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        """
        finite = True
        for group in dict.fromkeys(state.group for state in states):
            mine = [i for i, state in enumerate(states) if state.group is group]
            part = out if len(mine) == len(states) else torch.empty_like(out[: len(mine)])
            points, turns = ([each[i] for i in mine] for each in (keypoints, poses))
            finite = group.drive([states[i] for i in mine], points, turns, part, timer) and finite
            if part is not out:
                for i, frame in zip(mine, part, strict=True):
                    out[i].copy_(frame)
        return finite
