"""rasterize_landmarks on a GPU, and the kernel's own algorithm on the host."""

import ctypes

import pytest
import torch
from gpu_case import need_graph_replay, need_side_stream
from host_emulation import build, gpu_call
from torch import Tensor

from fastreenact.ops import rasterize_landmarks, rasterize_landmarks_all
from fastreenact.ops.rasterize_landmarks import _RASTERIZE_ALL

# The kernel's blocks and threads one after another, segments from last to first: the order must not matter.
EMULATION = """
#include "rasterize_landmarks.h"
#include <cstring>
using namespace fastreenact;
extern "C" void emulate(const void* packed) {
    RasterizeLandmarksParams p;
    std::memcpy(&p, packed, sizeof p);
    const LaunchShape shape = rasterize_shape(p);
    for (uint32_t i = 0; i < shape.grid_y; ++i) {
        const Drawing& d = p.drawings[i];
        for (uint32_t block = 0; block < shape.grid_x; ++block) {
            if (int32_t(block) >= tile_count(int32_t(d.size))) continue;
            const Tile tile = tile_at(int32_t(d.size), block);
            for (int64_t n = 0; n < p.n; ++n) {
                int32_t tops[kTilePixels] = {};
                for (int64_t s = d.segment_count - 1; s >= 0; --s) {
                    const Stroke stroke = stroke_of(p, d, n, s);
                    for (int32_t lane = 31; lane >= 0; --lane) {
                        draw_share(stroke, tile, d.size, lane, 32, [&](int32_t pixel) {
                            if (tops[pixel] < s + 1) tops[pixel] = int32_t(s + 1);
                        });
                    }
                }
                for (int32_t pixel = 0; pixel < tile.width * tile.height; ++pixel) {
                    const int64_t y = tile.top + pixel / tile.width, x = tile.left + pixel % tile.width;
                    for (int64_t c = 0; c < 3; ++c) {
                        const int32_t top = tops[pixel];
                        d.out[n * d.out_stride_n + y * d.out_stride_y + x * d.out_stride_x + c] =
                            top > 0 ? d.colours[3 * (top - 1) + c] : 0;
                    }
                }
            }
        }
    }
}
"""

HOSTILE = [float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 2.0**31, 1e10, -7.0, 1.0000001]


@pytest.fixture(scope="module")
def emulation(tmp_path_factory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("rasterize"), EMULATION)


def emulate(library: ctypes.CDLL, keypoints: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """What the kernel draws."""
    outs = [torch.full((len(keypoints), size, size, 3), 77, dtype=torch.uint8) for size in sizes]
    drawn = dict(zip(("out_small", "out_middle", "out_large"), outs, strict=True))
    ((_, packed, *_),) = gpu_call(_RASTERIZE_ALL, keypoints=keypoints, **drawn).launches()
    library.emulate(packed)
    return outs


@pytest.mark.parametrize("sizes", [(16, 32, 64), (1, 2, 3), (90, 97, 360), (17, 33, 4099)], ids=str)
def test_rasterize_landmarks_emulated_tiles(emulation, sizes, generator):
    count = 2 if max(sizes) > 1000 else 12
    keypoints = torch.randn(count, 72, 2, generator=generator) * 0.7
    keypoints[1:2] *= 3
    for got, want in zip(emulate(emulation, keypoints, sizes), rasterize_landmarks_all(keypoints, sizes), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("value", HOSTILE)
def test_rasterize_landmarks_emulated_hostile_coordinates(emulation, value, generator):
    keypoints = torch.rand(6, 72, 2, generator=generator) * 2 - 1
    keypoints[:, torch.randperm(72, generator=generator)[:20], 0] = value
    keypoints[2:, torch.randperm(72, generator=generator)[:20], 1] = -value
    keypoints[5] = value
    sizes = (16, 33, 97)
    for got, want in zip(emulate(emulation, keypoints, sizes), rasterize_landmarks_all(keypoints, sizes), strict=True):
        assert torch.equal(got, want)


def test_rasterize_landmarks_emulated_tiles_notice_a_wrong_step(tmp_path, generator):
    plant = ("rasterize_landmarks.h", "minor * (a - 1) + major - 1", "minor * (a - 1) + major")
    wrong = build(tmp_path, EMULATION, plant=plant)
    keypoints = torch.randn(2, 72, 2, generator=generator) * 0.7
    got, want = emulate(wrong, keypoints, (16, 32, 64)), rasterize_landmarks_all(keypoints, (16, 32, 64))
    assert not all(map(torch.equal, got, want))


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [(16, 32, 64), (1, 2, 3), (90, 97, 360), (17, 33, 4099)], ids=str)
@pytest.mark.parametrize("value", [0.3, *HOSTILE])
def test_rasterize_landmarks_gpu_matches_reference(maker, sizes, value, generator):
    keypoints = torch.randn(3, 72, 2, generator=generator) * 0.7
    keypoints[1, ::5, 0] = value
    keypoints[2, ::7, 1] = value
    drawn = rasterize_landmarks_all(keypoints.cuda(), sizes)
    for got, want in zip(drawn, rasterize_landmarks_all(keypoints, sizes), strict=True):
        assert torch.equal(got.cpu(), want)


@pytest.mark.gpu
def test_rasterize_landmarks_gpu_writes_only_its_slice(maker, generator):
    keypoints = torch.rand(2, 144, 3, generator=generator).cuda()[:, ::2, :2] * 2 - 1
    wide = torch.full((2, 40, 41, 5), 77, dtype=torch.uint8, device="cuda")
    inner = (slice(None), slice(3, 35), slice(4, 36), slice(1, 4))
    rasterize_landmarks(keypoints, 32, 2, out=wide[inner])
    assert torch.equal(wide[inner].cpu(), rasterize_landmarks(keypoints.cpu(), 32, 2))
    wide[inner] = 77
    assert (wide == 77).all()


def largest(keypoints: Tensor) -> Tensor:
    return rasterize_landmarks_all(keypoints, (16, 32, 64))[2]


def on_cpu(arguments: dict[str, Tensor]) -> Tensor:
    return largest(**arguments)


@pytest.mark.gpu
def test_rasterize_landmarks_on_a_side_stream(maker, generator):
    need_side_stream(largest, {"keypoints": torch.rand(1, 72, 2, generator=generator) * 2 - 1}, on_cpu)


@pytest.mark.gpu
def test_rasterize_landmarks_graph_replays_on_changed_inputs(maker, generator):
    draws = [{"keypoints": torch.rand(1, 72, 2, generator=generator) * 2 - 1} for _ in range(2)]
    need_graph_replay(largest, draws, on_cpu)
