"""spade on the CPU and the GPU against its reference in float64."""

from typing import Any

import pytest
import torch
from conftest import DEVICES, assert_close
from gpu_case import need_graph_replay, need_side_stream, on
from torch import Tensor

from fastreenact.ops import spade, spade_reference, warp

DTYPES = [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)]
# N, H, W, C, Ty, Tx
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (3, 17, 19, 5, 7, 3),
    (1, 64, 64, 52, 64, 64),
    (1, 16, 16, 280, 16, 16),
    (2, 5, 7, 140, 9, 9),
]  # fmt: skip


def make(
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    generator: torch.Generator,
    pictures: int | None = None,
) -> dict[str, Tensor]:
    """The tensors of spade: tables as halves of one tensor, as a convolution gives them."""
    n, height, width, channels, rows, columns = shape
    both = torch.randn(pictures or n, rows, columns, 2 * channels, generator=generator).to(dtypes[1])
    return {
        "x": torch.randn(n, height, width, channels, generator=generator).to(dtypes[0]),
        "gamma_table": both[..., :channels],
        "beta_table": both[..., channels:],
        "index_y": torch.randint(0, rows, (height,), generator=generator, dtype=torch.int32),
        "index_x": torch.randint(0, columns, (width,), generator=generator, dtype=torch.int32),
    }


def statistics(channels: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "mean": torch.randn(channels, generator=generator),
        "inv_std": torch.rand(channels, generator=generator) + 0.5,
    }


def in_float64(arguments: dict[str, Any], **options: Any) -> Tensor:
    wide = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in arguments.items()}
    return spade_reference(**wide, **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spade_reference(shape, dtypes, folded, activation, device, generator):
    arguments = make(shape, dtypes, generator)
    if not folded:
        arguments |= statistics(shape[3], generator)
    got = spade(**on(device, arguments), activation=activation)
    assert_close(got.cpu(), in_float64(arguments, activation=activation))


@pytest.mark.parametrize("device", DEVICES)
def test_spade_one_table_for_a_batch(device, generator):
    arguments = make((3, 5, 7, 12, 4, 4), DTYPES[0], generator, pictures=1)
    assert_close(spade(**on(device, arguments)).cpu(), in_float64(arguments))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 5), (7, 5)], ids=str)
def test_spade_doubles_half_a_map(size, dtypes, device, generator):
    arguments = make((2, *size, 20, 4, 4), dtypes, generator)
    whole = arguments["x"][:, :4, :3].repeat_interleave(2, 1).repeat_interleave(2, 2)[:, : size[0], : size[1]]
    expected = in_float64(arguments | {"x": whole})
    arguments["x"] = arguments["x"][:, :4, :3]
    assert_close(spade(**on(device, arguments)).cpu(), expected)
    assert torch.equal(in_float64(arguments), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_spade_on_a_side_stream(dtypes, generator):
    need_side_stream(spade, make((2, 64, 64, 52, 9, 9), dtypes, generator), in_float64)


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_spade_graph_replays_on_changed_inputs(dtypes, generator):
    need_graph_replay(spade, [make((2, 64, 64, 52, 9, 9), dtypes, generator) for _ in range(2)], in_float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3, 7, 8, 28, 33])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_spade_strided_and_writes_only_its_slice(dtypes, channels, device, generator):
    arguments = make((2, 6, 5, channels, 3, 3), dtypes, generator)
    wide = torch.full((2, 8, 10, channels + 6), 77, dtype=dtypes[0], device=device)
    far = torch.randn(2, 12, 5, channels + 9, generator=generator).to(dtypes[0])
    arguments["x"] = far[:, ::2, :, 2 : 2 + channels]
    there = on(device, arguments) | {"x": far.to(device)[:, ::2, :, 2 : 2 + channels]}
    inner = (slice(None), slice(1, 7), slice(2, 7), slice(3, 3 + channels))
    returned = spade(**there, out=wide[inner])
    assert returned.data_ptr() == wide[inner].data_ptr()
    assert_close(wide[inner].cpu(), in_float64(arguments))
    wide[inner] = 77
    assert (wide == 77).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [3, 28, 33])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_spade_in_place(dtypes, channels, device, generator):
    arguments = on(device, make((2, 6, 5, channels, 3, 3), dtypes, generator))
    expected = spade(**arguments)
    whole = arguments["x"]
    assert spade(**arguments, out=whole) is whole
    assert torch.equal(whole, expected)
    arguments = on(device, make((2, 6, 5, channels, 3, 3), dtypes, generator))
    expected = spade(**arguments)
    spade(**arguments, out=arguments["x"][:])  # another tensor object on the same memory
    assert torch.equal(arguments["x"], expected)


def test_spade_is_the_epilogue_of_warp(generator):
    arguments = make((2, 9, 11, 28, 4, 4), DTYPES[0], generator)
    field = torch.rand(2, 9, 11, 2, generator=generator) * 2.4 - 1.2
    features = arguments.pop("x")
    both = warp(
        features,
        field,
        scale=arguments["gamma_table"],
        shift=arguments["beta_table"],
        index_y=arguments["index_y"],
        index_x=arguments["index_x"],
        activation="relu",
    )
    assert_close(both, spade(warp(features, field), **arguments).double())


@pytest.mark.parametrize("shape", [(0, 4, 4, 3, 2, 2), (2, 0, 4, 3, 2, 2), (2, 4, 4, 0, 2, 2)])
def test_spade_empty(shape, generator):
    assert spade(**make(shape, DTYPES[0], generator)).shape == shape[:4]


@pytest.mark.parametrize("device", DEVICES)
def test_spade_nan_stays_in_its_element(device, generator):
    arguments = on(device, make((1, 3, 3, 20, 2, 2), DTYPES[0], generator))
    arguments["x"][0, 1, 1, 4] = float("nan")
    for activation in (None, "relu", "tanh"):
        assert spade(**arguments, activation=activation).isnan().sum() == 1


def test_spade_reference_gradient(generator):
    arguments = {
        k: v.double().requires_grad_() if v.is_floating_point() else v
        for k, v in make((1, 3, 4, 2, 2, 2), DTYPES[0], generator).items()
    }
    x, gamma, beta, index_y, index_x = arguments.values()
    assert torch.autograd.gradcheck(
        lambda a, b, c: spade_reference(a, b, c, index_y, index_x, activation="tanh"), (x, gamma, beta), atol=1e-5
    )


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_spade_opcheck(dtypes, folded, generator):
    arguments = tuple(make((2, 5, 7, 12, 3, 4), dtypes, generator).values())
    stats = (None, None) if folded else tuple(statistics(12, generator).values())
    arguments = (*arguments, *stats, "relu")
    torch.library.opcheck(torch.ops.fastreenact.spade.default, arguments)
    torch.library.opcheck(torch.ops.fastreenact.spade_out.default, (*arguments, torch.zeros(2, 5, 7, 12).to(dtypes[0])))
    torch.library.opcheck(torch.ops.fastreenact.spade_.default, arguments)


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of spade but for `changes`."""
    table, index = torch.zeros(2, 3, 3, 6), torch.zeros(4, dtype=torch.int32)
    return {
        "x": torch.zeros(2, 4, 4, 6),
        "gamma_table": table,
        "beta_table": table,
        "index_y": index,
        "index_x": index,
        **changes,
    }


BAD = [
    (grown(x=None), TypeError, "x: got NoneType, needs a torch.Tensor"),
    (grown(index_y=[0]), TypeError, "index_y: got list"),
    (grown(mean=0.0), TypeError, "mean: got float"),
    (grown(x=torch.zeros(2, 4, 4, 6).double()), TypeError, "x: got float64, needs float32 or bfloat16"),
    (grown(x=torch.zeros(2, 4, 4, 6).half()), TypeError, "x: got float16"),
    (grown(x=torch.zeros(4, 4, 6)), ValueError, r"x: got shape \[4, 4, 6\], needs \[N, H, W, C\]"),
    (grown(x=torch.zeros(2, 6, 4, 4).permute(0, 2, 3, 1)), ValueError, "x: got strides"),
    (grown(gamma_table=torch.zeros(2, 3, 3, 5)), ValueError, "gamma_table: got shape"),
    (grown(gamma_table=torch.zeros(3, 3, 3, 6)), ValueError, "gamma_table: got shape"),
    (grown(gamma_table=torch.zeros(2, 3, 3, 6).bfloat16()), TypeError, "gamma_table: got bfloat16, needs float32"),
    (grown(beta_table=torch.zeros(2, 3, 4, 6)), ValueError, "beta_table: got .* needs shape and dtype of gamma_table"),
    (grown(index_y=torch.zeros(4)), TypeError, "index_y: got float32, needs int32"),
    (grown(index_x=torch.zeros(5, dtype=torch.int32)), ValueError, "index_x: got shape"),
    (grown(index_x=torch.zeros(8, dtype=torch.int32)[::2]), ValueError, "index_x: got strides"),
    (grown(index_y=torch.full((4,), 3, dtype=torch.int32)), ValueError, "index_y: got 3 at position 0, needs values"),
    (grown(index_x=torch.full((4,), -1, dtype=torch.int32)), ValueError, "index_x: got -1 at position 0"),
    (grown(mean=torch.zeros(6)), ValueError, "mean, inv_std: got only one"),
    (grown(mean=torch.zeros(6), inv_std=torch.zeros(5)), ValueError, "inv_std: got shape"),
    (grown(mean=torch.zeros(6).double(), inv_std=torch.zeros(6)), TypeError, "mean: got float64"),
    (grown(activation="selu"), ValueError, "activation: got 'selu'"),
    (grown(out=torch.zeros(2, 4, 4, 7)), ValueError, "out: got shape"),
    (grown(out=torch.zeros(2, 4, 4, 6).bfloat16()), TypeError, "out: got bfloat16"),
    (grown(out=torch.zeros(1, 4, 4, 6).expand(2, 4, 4, 6)), ValueError, "out: got strides"),
    (grown(x=torch.zeros(2, 4, 4, 6, requires_grad=True)), ValueError, "x: requires grad, but spade is forward only"),
    (grown(gamma_table=torch.zeros(2, 3, 3, 6, requires_grad=True)), ValueError, "gamma_table: requires grad"),
    (grown(x=torch.zeros(2, 4, 4, 6, device="meta")), ValueError, "gamma_table: got device cpu, needs meta"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_spade_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        spade(**arguments)


def test_spade_refuses_shifted_overlap(generator):
    arguments = make((1, 4, 4, 6, 2, 2), DTYPES[0], generator)
    memory = torch.zeros(200)
    arguments["x"] = memory[:96].view(1, 4, 4, 6)
    with pytest.raises(ValueError, match="out: shares memory with x"):
        spade(**arguments, out=memory[6:102].view(1, 4, 4, 6))
