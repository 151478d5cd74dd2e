"""render_mesh and render_mesh_ids against their references in float64, and what a rasterizer has to keep."""

from typing import Any

import pytest
import torch
from conftest import assert_close
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import render_mesh, render_mesh_ids, render_mesh_ids_reference, render_mesh_reference
from fastreenact.ops.render_mesh import _RENDER_IDS

FAR = 32767.0


def soup(
    n: int, size: tuple[int, int], channels: int, generator: torch.Generator, *, triangles: int = 40, reach: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Random triangles one above the other, that leave the picture by `reach` of its size on each side.

    Sloped, but apart: where two cross, float32 and float64 may see either of them.
    """
    vertices = torch.rand(n, 3 * triangles, 3, generator=generator) * (1 + 2 * reach) - reach
    vertices = vertices * torch.tensor([size[1], size[0], 0.4])
    vertices[..., 2] += torch.randperm(triangles, generator=generator).repeat_interleave(3)
    indices = torch.randperm(3 * triangles, generator=generator).int()
    vertices[:, indices.long()] = vertices.clone()
    return vertices, indices.view(-1, 3), torch.randn(3 * triangles, channels, generator=generator)


def patchwork(size: tuple[int, int], step: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Triangles without gap over more than the picture, in both orientations; corners moved at random, if given."""
    rows, columns = (int(side / step) + 4 for side in size)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    vertices = torch.stack([x, y, torch.zeros_like(x)], 2).float() * step - step
    if generator is not None:
        moved = (torch.rand(rows, columns, 2, generator=generator) - 0.5) * 0.45 * step
        vertices[..., :2] += moved
    corner = (y * columns + x)[:-1, :-1].flatten()
    a, b, c, d = corner, corner + 1, corner + columns, corner + columns + 1
    triangles = torch.cat([torch.stack([a, b, c], 1), torch.stack([d, b, c], 1)])
    return vertices.view(1, -1, 3), triangles.int()


def cover(vertices: Tensor, triangles: Tensor, size: tuple[int, int], **options: Any) -> Tensor:
    """Alpha [N, H, W] of a mesh without attributes."""
    return render_mesh(vertices, triangles, torch.zeros(vertices.shape[1], 1), size, **options)[1]


def triangle(*corners: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    return torch.tensor([corners]), torch.tensor([[0, 1, 2]], dtype=torch.int32)


@pytest.mark.parametrize("supersample", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [(1, 1), (17, 19), (24, 5)], ids=str)
@pytest.mark.parametrize("n", [1, 3])
def test_render_mesh_reference(n, size, supersample, generator):
    for channels, cull in ((1, False), (5, True), (8, False), (33, True)):
        vertices, triangles, attributes = soup(n, size, channels, generator)
        options = {"supersample": supersample, "cull": cull}
        background = torch.randn(*size, channels, generator=generator)
        backgrounds = torch.randn(n, *size, channels, generator=generator)
        several = torch.randn(n, 120, channels, generator=generator)
        for values, behind in ((attributes, None), (attributes, background), (several, backgrounds)):
            got = render_mesh(vertices, triangles, values, size, background=behind, **options)
            expected = render_mesh_reference(vertices, triangles, values, size, background=behind, **options)
            for mine, right in zip(got, expected, strict=True):
                assert mine.is_contiguous()
                assert_close(mine, right)


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (17, 19), (64, 31)], ids=str)
def test_render_mesh_ids_reference(size, cull, generator):
    vertices, triangles, _ = soup(3, size, 1, generator)
    ids, weights = render_mesh_ids(vertices, triangles, size, cull=cull)
    expected_ids, expected_weights = render_mesh_ids_reference(vertices, triangles, size, cull=cull)
    assert torch.equal(ids, expected_ids)
    assert_close(weights, expected_weights)


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_render_mesh_reference_corners_on_samples(supersample, generator):
    """Edges through samples: which side owns them is part of the meaning."""
    vertices, triangles, attributes = soup(2, (14, 15), 4, generator)
    vertices[..., :2] = ((vertices[..., :2] * supersample).floor() + 0.5) / supersample
    got = render_mesh(vertices, triangles, attributes, (14, 15), supersample=supersample)
    expected = render_mesh_reference(vertices, triangles, attributes, (14, 15), supersample=supersample)
    assert_close(got[1], expected[1])
    assert_close(got[0], expected[0])


def test_render_mesh_ids_where_triangles_cross(generator):
    """Whichever of two nearly equal ones it is, none is nearer by more than rounding."""
    size = (40, 41)
    vertices = torch.rand(2, 30, 3, generator=generator) * torch.tensor([60.0, 60.0, 10.0]) - 10
    triangles = torch.randint(0, 30, (60, 3), generator=generator, dtype=torch.int32)

    def depth(ids: Tensor, weights: Tensor) -> Tensor:
        picked = triangles[ids.clamp_min(0).long()].long()
        corners = vertices[torch.arange(2).view(2, 1, 1, 1), picked, 2]
        return torch.where(ids >= 0, (weights.double() * corners).sum(-1), -torch.inf)

    ids, weights = render_mesh_ids(vertices, triangles, size)
    expected_ids, expected_weights = render_mesh_ids_reference(vertices, triangles, size)
    assert (ids != expected_ids).double().mean() < 0.01
    torch.testing.assert_close(depth(ids, weights), depth(expected_ids, expected_weights), rtol=0, atol=1e-5)


def test_render_mesh_reference_far_corners(generator):
    vertices, triangles, attributes = soup(1, (9, 11), 3, generator, triangles=20, reach=0.2)
    far = (torch.rand(1, 60, 2, generator=generator) * 2 - 1) * FAR
    far[0, 30:38] = torch.tensor([[-FAR, -FAR], [FAR, -FAR], [FAR, FAR], [-FAR, FAR]]).repeat(2, 1)
    vertices[:, ::2, :2] = far[:, ::2]
    vertices[:, 30:38, :2] = far[:, 30:38]
    for supersample in (1, 8):
        got = render_mesh(vertices, triangles, attributes, (9, 11), supersample=supersample)
        expected = render_mesh_reference(vertices, triangles, attributes, (9, 11), supersample=supersample)
        assert got[1].mean() > 0
        assert_close(got[1], expected[1])
        assert_close(got[0], expected[0])


@pytest.mark.parametrize("supersample", [1, 2, 4])
@pytest.mark.parametrize("moved", [True, False], ids=["moved", "corners on samples"])
def test_render_mesh_shares_edges_out(moved, supersample, generator):
    size = (13, 17)
    # Half a sample's step puts corners and edges exactly on samples, where only the rule decides.
    vertices, triangles = patchwork(size, 3.7 if moved else 1.5 / supersample, generator if moved else None)
    assert (cover(vertices, triangles, size, supersample=supersample) == 1).all()
    total = torch.zeros(1, *size)
    for one in triangles:
        total += cover(vertices, one.view(1, 3), size, supersample=supersample)
    assert torch.equal(total, torch.ones(1, *size))


def test_render_mesh_fan_on_one_sample():
    centre = (4.5, 4.5, 0.0)
    rim = [(0.0, 0.0), (4.5, 0.0), (9.0, 0.0), (9.0, 4.5), (9.0, 9.0), (4.5, 9.0), (0.0, 9.0), (0.0, 4.5)]
    vertices = torch.tensor([[centre, *((x, y, 0.0) for x, y in rim)]])
    total = torch.zeros(1, 9, 9)
    for k in range(8):
        one = torch.tensor([[0, 1 + k, 1 + (k + 1) % 8]], dtype=torch.int32)
        total += cover(vertices, one, (9, 9), supersample=1)
    assert torch.equal(total, torch.ones(1, 9, 9))


def test_render_mesh_alpha_is_the_covered_share():
    vertices, triangles = patchwork((1, 1), 1.0, None)
    box = vertices * torch.tensor([2.25, 1.75, 1.0])  # columns from -2.25 to 6.75, rows from -1.75 to 5.25
    alpha = cover(box, triangles, (7, 8), supersample=4)
    right = torch.tensor([1, 1, 1, 1, 1, 1, 0.75, 0])
    down = torch.tensor([1, 1, 1, 1, 1, 0.25, 0])
    assert torch.equal(alpha[0], down.view(-1, 1) * right)


@pytest.mark.parametrize("flip", [False, True])
def test_render_mesh_owns_top_and_left_edges(flip):
    vertices = torch.tensor([[(1.5, 2.5, 0.0), (5.5, 2.5, 0.0), (1.5, 6.5, 0.0), (5.5, 6.5, 0.0)]])
    triangles = torch.tensor([[0, 1, 2], [1, 3, 2]], dtype=torch.int32)
    expected = torch.zeros(1, 8, 8)
    expected[:, 2:6, 1:5] = 1
    alpha = cover(vertices, triangles.flip(1) if flip else triangles, (8, 8), supersample=1)
    assert torch.equal(alpha, expected)


def test_render_mesh_affine_attributes_stay_affine(generator):
    """Each pixel gets the value at its centre, whichever and however many triangles it is made of."""
    size = (29, 23)
    vertices, triangles = patchwork(size, 2.3, generator)
    image, _ = render_mesh(vertices, triangles, vertices, size, supersample=2)
    y, x = torch.meshgrid(torch.arange(29) + 0.5, torch.arange(23) + 0.5, indexing="ij")
    # Corners are drawn where the grid has them, half of 1/8192 pixel away at most.
    assert (image[0, ..., :2] - torch.stack([x, y], 2)).abs().max() < 1e-4


def test_render_mesh_nearest_wins(generator):
    size = (16, 16)
    around = [(-20.0, -20.0), (60.0, -20.0), (-20.0, 60.0)]
    vertices = torch.tensor([[(x, y, z) for z in (1.0, 2.0) for x, y in around]])
    values = torch.tensor([[1.0]] * 3 + [[2.0]] * 3)
    for order in ([0, 1], [1, 0]):
        triangles = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)[order]
        image, _ = render_mesh(vertices, triangles, values, size)
        assert_close(image, torch.full((1, 16, 16, 1), 2.0))
    flat = vertices * torch.tensor([1.0, 1.0, 0.0])
    triangles = torch.tensor([[3, 4, 5], [0, 1, 2]], dtype=torch.int32)
    assert (render_mesh_ids(flat, triangles, size)[0] == 0).all()


def test_render_mesh_cull_keeps_counter_clockwise():
    vertices, triangles = triangle((0.0, 8.0, 0.0), (8.0, 8.0, 0.0), (0.0, 0.0, 0.0))  # on the screen, y down
    assert cover(vertices, triangles, (8, 8), cull=True).sum() > 0
    assert cover(vertices, triangles.flip(1), (8, 8), cull=True).sum() == 0
    assert cover(vertices, triangles.flip(1), (8, 8)).sum() > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 32768.0, 3e38])
def test_render_mesh_skips_unusable_corners(bad, generator):
    size = (12, 12)
    vertices, triangles, attributes = soup(1, size, 4, generator)
    keep = ~(triangles == 7).any(1)
    assert not keep.all()
    for axis in range(3 if abs(bad) > 1e38 or bad != bad else 2):
        broken = vertices.clone()
        broken[0, 7, axis] = bad
        if axis == 2 and bad == 3e38:
            continue  # a finite depth is a depth
        image, alpha = render_mesh(broken, triangles, attributes, size)
        expected_image, expected_alpha = render_mesh(vertices, triangles[keep].contiguous(), attributes, size)
        assert torch.equal(image, expected_image)
        assert torch.equal(alpha, expected_alpha)


def test_render_mesh_extreme_depths():
    vertices, triangles = triangle((0.0, 0.0, -3e38), (9.0, 0.0, 3e38), (0.0, 9.0, 0.0))
    assert torch.equal(cover(vertices, triangles, (9, 9)), cover(vertices * torch.tensor([1, 1, 0]), triangles, (9, 9)))


@pytest.mark.parametrize(
    "corners",
    [
        ((1.0, 1.0, 0.0), (5.0, 5.0, 0.0), (3.0, 3.0, 1.0)),
        ((1.0, 2.0, 0.0), (7.0, 2.0, 0.0), (4.0, 2.0, 0.0)),
        ((2.0, 1.0, 0.0), (2.0, 7.0, 0.0), (2.0, 3.0, 0.0)),
        ((2.0, 2.0, 0.0), (2.0, 2.0, 1.0), (2.0, 2.0, 2.0)),
        ((2.6, 2.6, 0.0), (2.7, 2.6, 0.0), (2.6, 2.7, 0.0)),
        ((-9.0, 1.0, 0.0), (-1.0, 1.0, 0.0), (-1.0, 7.0, 0.0)),
        ((9.0, 1.0, 0.0), (20.0, 1.0, 0.0), (9.0, 7.0, 0.0)),
        ((1.0, -9.0, 0.0), (4.0, -1.0, 0.0), (7.0, -9.0, 0.0)),
        ((1.0, 9.0, 0.0), (4.0, 20.0, 0.0), (7.0, 9.0, 0.0)),
    ],
    ids=["diagonal", "horizontal", "vertical", "point", "between samples", "left", "right", "above", "below"],
)
def test_render_mesh_draws_nothing(corners):
    vertices, triangles = triangle(*corners)
    assert cover(vertices, triangles, (8, 8)).sum() == 0
    assert (render_mesh_ids(vertices, triangles, (8, 8))[0] == -1).all()
    assert render_mesh_ids(vertices, triangles, (8, 8))[1].sum() == 0


def test_render_mesh_empty():
    none = torch.zeros(0, 3, dtype=torch.int32)
    background = torch.randn(4, 5, 2)
    image, alpha = render_mesh(torch.zeros(2, 3, 3), none, torch.zeros(3, 2), (4, 5), background=background)
    assert torch.equal(image, background.expand(2, -1, -1, -1))
    assert (alpha == 0).all()
    image, alpha = render_mesh(torch.zeros(1, 0, 3), none, torch.zeros(0, 2), (4, 5))
    assert torch.equal(image, torch.zeros(1, 4, 5, 2))
    assert render_mesh(torch.zeros(0, 3, 3), none, torch.zeros(3, 2), (4, 5))[0].shape == (0, 4, 5, 2)
    vertices, triangles = triangle((0.0, 0.0, 0.0), (9.0, 0.0, 0.0), (0.0, 9.0, 0.0))
    image, alpha = render_mesh(vertices, triangles, torch.zeros(3, 0), (4, 5))
    assert image.shape == (1, 4, 5, 0)
    assert (alpha == 1).any()
    assert [part.shape for part in render_mesh_ids(torch.zeros(0, 3, 3), none, (4, 5))] == [(0, 4, 5), (0, 4, 5, 3)]


def test_render_mesh_background_shows_only_where_it_is_open(generator):
    vertices, triangles = patchwork((6, 6), 2.0, generator)
    nan = torch.full((6, 6, 2), float("nan"))
    image, _ = render_mesh(vertices, triangles, torch.ones(vertices.shape[1], 2), (6, 6), background=nan)
    assert torch.allclose(image, torch.ones(1, 6, 6, 2))


def test_render_mesh_ids_give_attributes(generator):
    vertices, triangles, attributes = soup(2, (20, 22), 5, generator)
    ids, weights = render_mesh_ids(vertices, triangles, (20, 22))
    corners = attributes[triangles[ids.clamp_min(0).long()].long()]  # [N, H, W, 3, A]
    image, alpha = render_mesh(vertices, triangles, attributes, (20, 22), supersample=1)
    assert torch.equal(alpha, (ids >= 0).float())
    assert_close(image, (weights.unsqueeze(-1).double() * corners).sum(3))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_render_mesh_any_thread_count_gives_the_same_bits(count, generator):
    before = _C.num_threads()
    vertices, triangles, attributes = soup(9, (33, 35), 6, generator)
    expected = render_mesh(vertices, triangles, attributes, (33, 35))
    try:
        _C.set_num_threads(count)
        for _ in range(5):
            got = render_mesh(vertices, triangles, attributes, (33, 35))
            assert all(torch.equal(mine, right) for mine, right in zip(got, expected, strict=True))
    finally:
        _C.set_num_threads(before)


@pytest.mark.parametrize("channels", [1, 3, 8, 19])
def test_render_mesh_writes_only_its_outputs(channels, generator):
    n, height, width, margin = 2, 7, 9, 64
    vertices, triangles, attributes = soup(n, (height, width), channels, generator)
    expected = render_mesh(vertices, triangles, attributes, (height, width))
    expected += render_mesh_ids(vertices, triangles, (height, width))
    buffers = [torch.full((part.numel() + 2 * margin,), 77, dtype=part.dtype) for part in expected]
    image, alpha, ids, weights = (
        buffer[margin:-margin].view(part.shape) for buffer, part in zip(buffers, expected, strict=True)
    )
    render_mesh(vertices, triangles, attributes, (height, width), out=(image, alpha))
    _RENDER_IDS.into(vertices, triangles, height, width, False, ids, weights)
    for buffer, part in zip(buffers, expected, strict=True):
        assert torch.equal(buffer[margin:-margin], part.flatten())
        assert (buffer[:margin] == 77).all()
        assert (buffer[-margin:] == 77).all()


def test_render_mesh_out(generator):
    vertices, triangles, attributes = soup(3, (9, 10), 4, generator)
    expected = render_mesh(vertices, triangles, attributes, (9, 10))
    wide, flat = torch.full((5, 9, 10, 4), 77.0), torch.full((5, 9, 10), 77.0)
    image, alpha = render_mesh(vertices, triangles, attributes, (9, 10), out=(wide[1:4], flat[1:4]))
    assert torch.equal(image, expected[0])
    assert torch.equal(alpha, expected[1])
    assert image.data_ptr() == wide[1].data_ptr()
    for buffer in (wide, flat):
        assert (buffer[::4] == 77).all()


@pytest.mark.parametrize("batched", [False, True])
def test_render_mesh_opcheck(batched, generator):
    vertices, triangles, attributes = soup(2, (5, 7), 3, generator)
    background = torch.randn(5, 7, 3, generator=generator) if batched else None
    attributes = attributes.repeat(2, 1, 1) if batched else attributes
    arguments = (vertices, triangles, attributes, background, 5, 7, 2, False)
    torch.library.opcheck(torch.ops.fastreenact.render_mesh.default, arguments)
    out = torch.zeros(2, 5, 7, 3), torch.zeros(2, 5, 7)
    torch.library.opcheck(torch.ops.fastreenact.render_mesh_out.default, (*arguments, *out))
    torch.library.opcheck(torch.ops.fastreenact.render_mesh_ids.default, (vertices, triangles, 5, 7, True))


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of render_mesh but for `changes`."""
    return {
        "vertices": torch.zeros(2, 4, 3),
        "triangles": torch.zeros(5, 3, dtype=torch.int32),
        "attributes": torch.zeros(4, 6),
        "size": (8, 9),
        **changes,
    }


def corner(value: int) -> Tensor:
    return torch.tensor([[0, 1, 2], [0, value, 1]], dtype=torch.int32)


STRIDED = torch.zeros(2, 3, 4).transpose(1, 2)
BAD_MESH = [
    ({"vertices": None}, TypeError, "vertices: got NoneType, needs a torch.Tensor"),
    ({"vertices": torch.zeros(2, 4, 3).double()}, TypeError, "vertices: got float64, needs float32"),
    ({"vertices": torch.zeros(4, 3)}, ValueError, r"vertices: got shape \[4, 3\], needs \[N, V, 3\]"),
    ({"vertices": STRIDED}, ValueError, r"vertices: got strides .* needs a contiguous tensor"),
    ({"vertices": torch.zeros(2, 4, 3, requires_grad=True)}, ValueError, "vertices: requires grad, but render_mesh"),
    ({"vertices": torch.zeros(2, 4, 3, device="meta")}, ValueError, "triangles: got device cpu, needs meta"),
    ({"triangles": [[0, 1, 2]]}, TypeError, "triangles: got list"),
    ({"triangles": torch.zeros(5, 3).long()}, TypeError, "triangles: got int64, needs int32"),
    ({"triangles": torch.zeros(5, 4).int()}, ValueError, r"triangles: got shape \[5, 4\], needs \[F, 3\]"),
    ({"triangles": torch.zeros(3, 5).int().T}, ValueError, "triangles: got strides"),
    ({"triangles": corner(4)}, ValueError, "triangles: got 4 at position 4, needs values from 0 to 3, one less than"),
    ({"triangles": corner(-1)}, ValueError, "triangles: got -1 at position 4, needs values from 0 to 3"),
    ({"size": 8}, ValueError, r"size: got 8, needs \(height, width\)"),
    ({"size": (8,)}, ValueError, r"size: got \(8,\), needs \(height, width\)"),
    ({"size": (0, 8)}, ValueError, "size: got 0, needs a whole number from 1 to 16384"),
    ({"size": (8, 8.0)}, ValueError, "size: got 8.0, needs a whole number"),
]
IMAGE, ALPHA = torch.zeros(2, 8, 9, 6), torch.zeros(2, 8, 9)
BAD_DRAWING = [
    ({"attributes": 5}, TypeError, "attributes: got int"),
    ({"attributes": torch.zeros(4, 6).half()}, TypeError, "attributes: got float16, needs float32"),
    ({"attributes": torch.zeros(5, 6)}, ValueError, r"attributes: got shape \[5, 6\], needs \[V, A\] or \[N, V, A\]"),
    ({"attributes": torch.zeros(3, 4, 6)}, ValueError, r"attributes: got shape \[3, 4, 6\], needs \[N, V, A\]"),
    ({"attributes": torch.zeros(6, 4).T}, ValueError, "attributes: got strides"),
    ({"attributes": torch.zeros(4, 6, requires_grad=True)}, ValueError, "attributes: requires grad"),
    ({"attributes": torch.zeros(4, 6, device="meta")}, ValueError, "attributes: got device meta"),
    ({"background": 5}, TypeError, "background: got int"),
    ({"background": torch.zeros(8, 9, 6).byte()}, TypeError, "background: got uint8, needs float32"),
    ({"background": torch.zeros(9, 8, 6)}, ValueError, r"background: got shape .* needs \[H, W, A\] or \[N,"),
    ({"background": torch.zeros(1, 8, 9, 6)}, ValueError, r"background: got shape .* needs \[N, H, W, A\]"),
    ({"background": torch.zeros(9, 8, 6).transpose(0, 1)}, ValueError, "background: got strides"),
    ({"supersample": 0}, ValueError, "supersample: got 0, needs a whole number from 1 to 8"),
    ({"supersample": True}, ValueError, "supersample: got True"),
    ({"out": 5}, ValueError, r"out: got int, needs \(image, alpha\)"),
    ({"out": (5, ALPHA)}, TypeError, "image: got int, needs a torch.Tensor"),
    ({"out": (IMAGE, ALPHA.double())}, TypeError, "alpha: got float64, needs float32"),
    ({"out": (IMAGE.half(), ALPHA)}, TypeError, "image: got float16, needs float32"),
    ({"out": (IMAGE[:1], ALPHA)}, ValueError, r"image: got shape .* needs \[N, H, W, A\] = \[2, 8, 9, 6\]"),
    ({"out": (IMAGE, ALPHA[0])}, ValueError, r"alpha: got shape .* needs \[N, H, W\] = \[2, 8, 9\]"),
    ({"out": (IMAGE, torch.zeros(1, 8, 9).expand(2, -1, -1))}, ValueError, "alpha: got strides"),
    ({"out": (IMAGE, IMAGE.flatten()[:144].view(2, 8, 9))}, ValueError, "alpha: shares memory with image"),
    ({"out": (IMAGE, ALPHA), "background": IMAGE}, ValueError, "image: shares memory with background"),
    ({"out": (IMAGE.clone().requires_grad_(), ALPHA)}, ValueError, "image: requires grad"),
    ({"out": (torch.zeros(2, 8, 9, 6, device="meta"), ALPHA)}, ValueError, "image: got device meta, needs cpu"),
]


@pytest.mark.parametrize(
    ("changes", "error", "message"), BAD_MESH + BAD_DRAWING, ids=[bad[2] for bad in BAD_MESH + BAD_DRAWING]
)
def test_render_mesh_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        render_mesh(**grown(**changes))


@pytest.mark.parametrize(("changes", "error", "message"), BAD_MESH, ids=[bad[2] for bad in BAD_MESH])
def test_render_mesh_ids_refuses(changes, error, message):
    arguments = grown(**changes)
    del arguments["attributes"]
    with pytest.raises(error, match=message):
        render_mesh_ids(**arguments)
