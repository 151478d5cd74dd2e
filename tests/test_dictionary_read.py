"""dictionary_read on the CPU and the GPU against its reference in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, assert_close
from gpu_case import on
from torch import Tensor

from fastreenact.ops import dictionary_read, dictionary_read_reference

DTYPES = [torch.float32, torch.bfloat16]
# N, M, K, R, C; samples of v
SHAPES = [
    ((1, 1, 1, 1, 1), 1),
    ((3, 17, 5, 19, 7), 3),
    ((2, 300, 32, 512, 32), 1),  # the largest level of LD-Net
    ((1, 64, 32, 64, 256), 1),  # the smallest
    ((2, 130, 48, 100, 33), 2),
]  # fmt: skip


def make(shape: tuple[int, ...], samples: int, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """Arguments whose scores are spread as widely as a trained network's."""
    n, rows, key, entries, channels = shape
    return {
        "q": torch.randn(n, rows, key, generator=generator).to(dtype),
        "u": (torch.randn(entries, key, generator=generator) * 3 / key**0.5).to(dtype),
        "v": torch.randn(samples, entries, channels, generator=generator).to(dtype),
    }


def in_float64(arguments: dict[str, Any]) -> Tensor:
    wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    return dictionary_read_reference(**wide)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "samples"), SHAPES, ids=str)
def test_dictionary_read_reference(shape, samples, dtype, scale, device, generator):
    arguments = make(shape, samples, dtype, generator) | {"scale": scale}
    assert_close(dictionary_read(**on(device, arguments)).cpu(), in_float64(arguments))


def test_dictionary_read_is_attention(generator):
    q, u, v = make((2, 9, 8, 5, 8), 2, torch.float64, generator).values()
    expected = F.scaled_dot_product_attention(q, u.expand(2, 5, 8), v, scale=0.7)
    torch.testing.assert_close(dictionary_read_reference(q, u, v, scale=0.7), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, -0.4])
def test_dictionary_read_in_several_blocks(scale, dtype, generator):
    """More rows than the CPU takes at a time, the last block smaller; entries that fill no panel."""
    arguments = make((2, 45, 5, 1003, 7), 2, dtype, generator) | {"scale": scale}
    assert_close(dictionary_read(**arguments), in_float64(arguments))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("scale", "one_sign"), [(100.0, False), (1e35, False), (1e35, True), (-1e35, True)])
def test_dictionary_read_of_large_scores(scale, one_sign, dtype, generator):
    """Scores of hundreds and more, of both signs or one: one entry takes all, and nothing overflows."""
    arguments = make((1, 40, 16, 30, 8), 1, dtype, generator) | {"scale": scale}
    if one_sign:
        arguments |= {"q": arguments["q"].abs(), "u": -arguments["u"].abs()}
    assert_close(dictionary_read(**arguments), in_float64(arguments))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 7, 32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dictionary_read_strided_and_writes_only_its_slice(dtype, channels, device, generator):
    arguments = make((2, 20, 6, 11, channels), 2, dtype, generator)
    far = on(device, {name: torch.cat([t, torch.full_like(t, float("nan"))], -1) for name, t in arguments.items()})
    there = {name: far[name][..., : arguments[name].shape[-1]] for name in arguments}
    wide = torch.full((2, 25, channels + 5), 77, dtype=dtype, device=device)
    inner = wide[:, 2:22, 3 : 3 + channels]
    returned = dictionary_read(**there, out=inner)
    assert returned.data_ptr() == inner.data_ptr()
    assert_close(inner.cpu(), in_float64(arguments))
    inner.fill_(77)
    assert (wide == 77).all()


@pytest.mark.parametrize("shape", [(0, 4, 3, 5, 6), (2, 0, 3, 5, 6), (2, 4, 3, 5, 0)])
def test_dictionary_read_empty(shape, generator):
    n, rows, _, _, channels = shape
    assert dictionary_read(**make(shape, n, torch.float32, generator)).shape == (n, rows, channels)


@pytest.mark.parametrize("device", DEVICES)
def test_dictionary_read_nan_stays_in_its_row(device, generator):
    arguments = make((2, 6, 4, 5, 7), 2, torch.float32, generator)
    arguments["q"][1, 2, 3] = float("nan")
    read = dictionary_read(**on(device, arguments))
    assert read[1, 2].isnan().all()
    assert read.isnan().sum() == 7


def test_dictionary_read_reference_gradient(generator):
    arguments = [t.requires_grad_() for t in make((2, 3, 4, 5, 2), 2, torch.float64, generator).values()]
    assert torch.autograd.gradcheck(dictionary_read_reference, arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dictionary_read_opcheck(dtype, generator):
    arguments = (*make((2, 9, 4, 5, 7), 2, dtype, generator).values(), 0.5)
    torch.library.opcheck(torch.ops.fastreenact.dictionary_read.default, arguments)
    out = torch.zeros(2, 9, 7, dtype=dtype)
    torch.library.opcheck(torch.ops.fastreenact.dictionary_read_out.default, (*arguments, out))


def test_dictionary_read_compiles(generator):
    arguments = make((2, 9, 4, 5, 7), 2, torch.float32, generator)
    compiled = torch.compile(lambda q, u, v: dictionary_read(q, u, v) * 2, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*arguments.values()), dictionary_read(**arguments) * 2)


def test_dictionary_read_planted_error(generator):
    """The comparison notices values one entry further, and a softmax over the rows instead of the entries."""
    arguments = make((2, 9, 4, 9, 7), 2, torch.float32, generator)
    want = in_float64(arguments)
    wrong_axis = torch.softmax(arguments["q"] @ arguments["u"].T, -2) @ arguments["v"]
    for wrong in (in_float64(arguments | {"v": arguments["v"].roll(1, 1)}), wrong_axis):
        with pytest.raises(AssertionError):
            assert_close(wrong.float(), want)


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of dictionary_read but for `changes`."""
    return {"q": torch.zeros(2, 9, 4), "u": torch.zeros(5, 4), "v": torch.zeros(2, 5, 7), **changes}


BAD = [
    (grown(q=None), TypeError, "q: got NoneType, needs a torch.Tensor"),
    (grown(out=1), TypeError, "out: got int"),
    (grown(q=torch.zeros(2, 9, 4).double()), TypeError, "q: got float64, needs float32 or bfloat16"),
    (grown(q=torch.zeros(2, 9, 4).half()), TypeError, "q: got float16"),
    (grown(u=torch.zeros(5, 4).bfloat16()), TypeError, "u: got bfloat16, needs float32"),
    (grown(v=torch.zeros(2, 5, 7).bfloat16()), TypeError, "v: got bfloat16, needs float32"),
    (grown(q=torch.zeros(9, 4)), ValueError, r"q: got shape \[9, 4\], needs \[N, M, K\]"),
    (grown(q=torch.zeros(2, 4, 9).transpose(1, 2)), ValueError, "q: got strides"),
    (grown(u=torch.zeros(5, 3)), ValueError, r"u: got shape \[5, 3\], needs \[R, K\] = \[any, 4\]"),
    (grown(u=torch.zeros(0, 4), v=torch.zeros(2, 0, 7)), ValueError, "u: got shape .* at least one key"),
    (grown(v=torch.zeros(5, 7)), ValueError, "v: got shape"),
    (grown(v=torch.zeros(3, 5, 7)), ValueError, r"v: got shape .* needs \[N or 1, R, C\] = \[2, 5, any\]"),
    (grown(v=torch.zeros(2, 6, 7)), ValueError, "v: got shape"),
    (grown(scale=float("inf")), ValueError, "scale: got inf, needs a finite number"),
    (grown(scale=float("nan")), ValueError, "scale: got nan"),
    (grown(out=torch.zeros(2, 9, 6)), ValueError, r"out: got shape .* needs \[N, M, C\] = \[2, 9, 7\]"),
    (grown(out=torch.zeros(2, 9, 7).bfloat16()), TypeError, "out: got bfloat16"),
    (grown(out=torch.zeros(2, 1, 7).expand(2, 9, 7)), ValueError, "out: got strides"),
    (grown(q=torch.zeros(2, 9, 4, requires_grad=True)), ValueError, "q: requires grad, but dictionary_read is forward"),
    (grown(v=torch.zeros(2, 5, 7, requires_grad=True)), ValueError, "v: requires grad"),
    (grown(q=torch.zeros(2, 9, 4, device="meta")), ValueError, "u: got device cpu, needs meta"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_dictionary_read_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        dictionary_read(**arguments)


def test_dictionary_read_refuses_overlapping_out():
    q = torch.zeros(1, 9, 4)
    with pytest.raises(ValueError, match="out: shares memory with q"):
        dictionary_read(q, torch.zeros(5, 4), torch.zeros(1, 5, 4), out=q)
