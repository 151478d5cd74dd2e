"""render_mesh: triangles in screen space to anti-aliased attributes; render_mesh_ids: which triangle is where.

For making training pictures, on the CPU only. Registered like the ops of a frame, so that `opcheck` holds them to their
schemas and a compiled input pipeline can contain them.
"""

from typing import Any

import torch
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out

# Numbers of csrc/render_mesh.h.
GRID = 4096
FARTHEST = 32767
MAX_SUPERSAMPLE = 8
MAX_SIDE = 16384


def render_mesh(
    vertices: Tensor,
    triangles: Tensor,
    attributes: Tensor,
    size: tuple[int, int],
    *,
    background: Tensor | None = None,
    supersample: int = 2,
    cull: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw meshes with a depth buffer, anti-aliased: the mean of supersample^2 samples a pixel.

    image[n, y, x] = mean over the samples of the nearest triangle's attributes there, or of background[n, y, x]

    Pixel (x, y) covers [x, x + 1] x [y, y + 1], y runs down. Attributes are affine over a triangle on the screen, so
    the projection has to be orthographic or weak perspective. Corners are rounded to 1/4096 of a sample; which samples
    a triangle covers is then exact, top and left edges included: triangles with a common edge neither overlap nor
    leave a gap. Where two are equally near, the first one shows. Every channel is blended alike; what must not be (uv
    or flow at outlines) comes from `render_mesh_ids`.

    Args:
        vertices: [N, V, 3] float32, (x, y) in pixels, z larger is nearer; contiguous. A triangle with a corner that is
            NaN, infinite or more than 32767 pixels from the origin is left out; so is one without area.
        triangles: [F, 3] int32, 0 to V - 1, contiguous; the same for all N.
        attributes: [V, A] or [N, V, A] float32, contiguous: colours, normals, uv, flow.
        size: (H, W) of the picture in pixels, 1 to 16384 each.
        background: [H, W, A] or [N, H, W, A] float32, contiguous; None: zeros, `image` is then premultiplied.
        supersample: samples along a pixel's side, 1 to 8.
        cull: leave out triangles whose corners do not run counter-clockwise as seen on the screen.
        out: image and alpha to write into, contiguous. New memory for each call takes as long as the drawing.

    Returns:
        image [N, H, W, A] float32, and alpha [N, H, W] float32, the share of a pixel's samples that are covered: `out`
        if given.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a shape, stride, device, index or number that does not fit; an input requires grad.
    """
    height, width = _need_size(size)
    checks.need_whole("supersample", supersample, 1, MAX_SUPERSAMPLE)
    arguments = vertices, triangles, attributes, background, height, width, supersample, bool(cull)
    if out is None:
        return _RENDER(*arguments)
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise ValueError(f"out: got {type(out).__name__}, needs (image, alpha)")
    image, alpha = out
    _RENDER.into(*arguments, image, alpha)
    return image, alpha


def render_mesh_ids(
    vertices: Tensor, triangles: Tensor, size: tuple[int, int], *, cull: bool = False
) -> tuple[Tensor, Tensor]:
    """Find the nearest triangle at each pixel's centre and the weights of its corners there.

    For what must not be blended at outlines: an attribute v of the corners is (barycentrics * v[triangles[id]]).sum(),
    exact for texture coordinates and dense flow.

    Args:
        vertices, triangles, size, cull: as for `render_mesh`, which with supersample=1 draws the same pixels.

    Returns:
        ids [N, H, W] int32, row of `triangles`, -1 where there is none; barycentrics [N, H, W, 3] float32, at least 0
        but for rounding, sum 1; all 0 where there is no triangle.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: a shape, stride, device, index or number that does not fit; an input requires grad.
    """
    height, width = _need_size(size)
    return _RENDER_IDS(vertices, triangles, height, width, bool(cull))


def render_mesh_reference(
    vertices: Tensor,
    triangles: Tensor,
    attributes: Tensor,
    size: tuple[int, int],
    *,
    background: Tensor | None = None,
    supersample: int = 2,
    cull: bool = False,
) -> tuple[Tensor, Tensor]:
    """What `render_mesh` means, triangle by triangle and sample by sample, in float64."""
    height, width = size
    ids, weights = _samples_reference(vertices, triangles, (height, width), supersample, cull)
    channels = attributes.shape[-1]
    corners = attributes.double().expand(len(vertices), -1, -1)
    images, alphas = [], []
    for n in range(len(vertices)):
        hit = ids[n] >= 0
        samples = torch.zeros((*ids.shape[1:], channels), dtype=torch.float64)
        if background is not None:
            field = background if background.dim() == 3 else background[n]
            samples = field.double().repeat_interleave(supersample, 0).repeat_interleave(supersample, 1)
        of_corners = corners[n][triangles[ids[n][hit].long()].long()]  # [samples hit, 3, A]
        samples[hit] = (weights[n][hit].unsqueeze(2) * of_corners).sum(1)
        images.append(samples.view(height, supersample, width, supersample, channels).mean((1, 3)))
        alphas.append(hit.double().view(height, supersample, width, supersample).mean((1, 3)))
    if not images:
        return torch.zeros((0, height, width, channels)).double(), torch.zeros((0, height, width)).double()
    return torch.stack(images), torch.stack(alphas)


def render_mesh_ids_reference(
    vertices: Tensor, triangles: Tensor, size: tuple[int, int], *, cull: bool = False
) -> tuple[Tensor, Tensor]:
    """What `render_mesh_ids` means, triangle by triangle, in float64."""
    return _samples_reference(vertices, triangles, size, 1, cull)


def _samples_reference(
    vertices: Tensor, triangles: Tensor, size: tuple[int, int], supersample: int, cull: bool
) -> tuple[Tensor, Tensor]:
    """Triangle [N, rows, columns] and weights of its corners [N, rows, columns, 3] at each sample."""
    rows, columns = size[0] * supersample, size[1] * supersample
    y = (torch.arange(rows) * GRID + GRID // 2).view(-1, 1)
    x = (torch.arange(columns) * GRID + GRID // 2).view(1, -1)
    ids = torch.full((len(vertices), rows, columns), -1, dtype=torch.int32)
    weights = torch.zeros((len(vertices), rows, columns, 3), dtype=torch.float64)
    for n, picture in enumerate(vertices.double()):
        usable = picture.isfinite().all(1) & (picture[:, :2].abs() <= FARTHEST).all(1)
        places = (picture[:, :2].nan_to_num().clamp(-FARTHEST, FARTHEST) * supersample * GRID).round().long()
        depth = torch.full((rows, columns), -torch.inf, dtype=torch.float64)
        for f, corners in enumerate(triangles.tolist()):
            turned = _signed_area(*places[corners].tolist())
            if turned == 0 or not usable[corners].all() or (cull and turned > 0):
                continue
            sign = 1 if turned > 0 else -1
            inside = torch.ones((rows, columns), dtype=torch.bool)
            parts = []
            for k in range(3):  # the edge opposite corner k
                (ax, ay), (bx, by) = (places[corners[(k + i) % 3]].tolist() for i in (1, 2))
                dx, dy = sign * (bx - ax), sign * (by - ay)
                side = dx * (y - ay) - dy * (x - ax)
                inside &= (side > 0) | ((side == 0) & (dy < 0 or (dy == 0 and dx > 0)))
                parts.append(side.double() / abs(turned))
            at = torch.stack(parts, 2)
            z = at @ picture[corners, 2]
            nearer = inside & (z > depth)
            depth[nearer], ids[n][nearer], weights[n][nearer] = z[nearer], f, at[nearer]
    return ids, weights


def _signed_area(a: list[int], b: list[int], c: list[int]) -> int:
    """Twice the area; positive where the corners run clockwise on the screen."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _need_size(size: object) -> tuple[int, int]:
    if not isinstance(size, (tuple, list, torch.Size)) or len(size) != 2:
        raise ValueError(f"size: got {size!r}, needs (height, width)")
    for side in size:
        checks.need_whole("size", side, 1, MAX_SIDE)
    return size[0], size[1]


def _need_shared(name: str, tensor: Tensor, n: int, shape: tuple[int | None, ...], words: str) -> None:
    """ValueError unless the tensor is `shape`, or [n, *shape]."""
    if tensor.dim() == len(shape) + 1:
        checks.need_shape(name, tensor, (n, *shape), f"[N, {words}]")
    else:
        checks.need_shape(name, tensor, shape, f"[{words}] or [N, {words}]")


def _check(vertices: Tensor, triangles: Tensor) -> None:
    checks.need_no_gradient("render_mesh", vertices=vertices)
    checks.need_dtype("vertices", vertices, (torch.float32,))
    checks.need_shape("vertices", vertices, (None, None, 3), "[N, V, 3]")
    checks.need_dtype("triangles", triangles, (torch.int32,))
    checks.need_shape("triangles", triangles, (None, 3), "[F, 3]")
    checks.need_same_device(vertices, triangles=triangles)
    checks.need_contiguous("vertices", vertices)
    checks.need_contiguous("triangles", triangles)


def _check_drawing(a: Any) -> list[Out]:
    """Raise what `render_mesh` raises for tensors."""
    vertices, triangles, attributes, background, height, width, _, _, image, alpha = a
    _check(vertices, triangles)
    n, count, _ = vertices.shape
    checks.need_no_gradient("render_mesh", attributes=attributes, background=background)
    checks.need_dtype("attributes", attributes, (torch.float32,))
    _need_shared("attributes", attributes, n, (count, None), "V, A")
    checks.need_same_device(vertices, attributes=attributes, background=background)
    checks.need_contiguous("attributes", attributes)
    if background is not None:
        checks.need_dtype("background", background, (torch.float32,))
        _need_shared("background", background, n, (height, width, attributes.shape[-1]), "H, W, A")
        checks.need_contiguous("background", background)
    channels = attributes.shape[-1]
    if image is not None and alpha is not None:
        checks.need_no_gradient("render_mesh", image=image, alpha=alpha)
        checks.need_dtype("image", image, (torch.float32,))
        checks.need_shape("image", image, (n, height, width, channels), "[N, H, W, A]")
        checks.need_dtype("alpha", alpha, (torch.float32,))
        checks.need_shape("alpha", alpha, (n, height, width), "[N, H, W]")
        checks.need_same_device(vertices, image=image, alpha=alpha)
        checks.need_contiguous("image", image)
        checks.need_contiguous("alpha", alpha)
    return [Out((n, height, width, channels)), Out((n, height, width))]


def _check_ids(a: Any) -> list[Out]:
    """Raise what `render_mesh_ids` raises for tensors."""
    _check(a.vertices, a.triangles)
    shape = (len(a.vertices), a.height, a.width)
    for name, out in (("ids", a.ids), ("barycentrics", a.barycentrics)):
        if out is not None:
            checks.need_contiguous(name, out)
    return [Out(shape, torch.int32), Out((*shape, 3))]


def _numbers(a: Any) -> dict[str, Any]:
    return {"height": a.height, "width": a.width, "cull": a.cull, "supersample": getattr(a, "supersample", 1)}


_RENDER = Op(
    render_mesh,
    _check_drawing,
    arguments="Tensor vertices, Tensor triangles, Tensor attributes, Tensor? background, int height, int width, "
    "int supersample, bool cull",
    outs=("image", "alpha"),
    numbers=_numbers,
)
_RENDER_IDS = Op(
    render_mesh_ids,
    _check_ids,
    arguments="Tensor vertices, Tensor triangles, int height, int width, bool cull",
    outs=("ids", "barycentrics"),
    kernel="render_mesh",
    numbers=_numbers,
)
