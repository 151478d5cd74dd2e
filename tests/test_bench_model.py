"""bench/launches.py counts what runs, and bench/model_2080ti.py adds it up and says that it is a model."""

import json

import model_2080ti as model
import pytest
import torch
from launches import Launch, Trace, frame

from fastreenact import ops
from fastreenact.models.face2face_rho.inference import fuse
from fastreenact.models.face2face_rho.networks import random_face2face_rho


def kernel(channels_in, hidden, channels_out):
    """Weights of an inverted residual."""
    shapes = ((hidden, channels_in), (hidden,), (hidden, 3, 3), (hidden,), (channels_out, hidden), (channels_out,))
    return ops.pack_mbconv(ops.MbconvKernel(*(torch.ones(s, dtype=torch.float64) for s in shapes)), torch.bfloat16)


def traced(call):
    """Launches of a call."""
    with torch.inference_mode(), Trace() as trace:
        trace.mark("decode")
        call()
    return trace.launches


def test_conv_is_counted():
    weights = ops.pack_conv(ops.plain_kernel(torch.ones(5, 12, 3, 3), None, padding=1), torch.bfloat16)
    x, out = torch.zeros(1, 7, 9, 12, dtype=torch.bfloat16), torch.zeros(1, 7, 9, 5, dtype=torch.bfloat16)
    (launch,) = traced(lambda: ops.conv(x, weights, residual=out, out=out))
    packed = weights.packed.numel() * 2 + weights.bias.numel() * 4
    assert launch.reads == x.numel() * 2 + out.numel() * 2 + packed
    assert launch.writes == out.numel() * 2
    assert launch.multiplications == weights.multiplications(7, 9)
    assert launch.tensor == launch.multiplications * 16 * 8 // (12 * 5)
    assert launch.stage == "decode"


@pytest.mark.parametrize(("channels_in", "upsample", "count"), [(8, None, 1), (16, (12, 18), 1), (72, None, 2)])
def test_mbconv_is_one_kernel_or_two(channels_in, upsample, count):
    weights = kernel(channels_in, 6 * channels_in, 24)
    x = torch.zeros(1, 6, 9, channels_in, dtype=torch.bfloat16)
    launches = traced(lambda: ops.mbconv(x, weights, upsample=upsample))
    height, width = upsample or (6, 9)
    assert len(launches) == count
    total = sum(launch.multiplications for launch in launches)
    assert total == weights.multiplications(height, width, upsample is not None)
    assert sum(launch.depthwise for launch in launches) == height * width * 6 * channels_in * 9
    assert sum(launch.tensor + launch.depthwise for launch in launches) >= total
    if count == 2:
        between = 6 * 9 * 6 * channels_in * 2
        assert launches[0].writes == between
        assert launches[1].reads > between
        once = x.numel() * 2 + sum(t.numel() * t.element_size() for t in vars(weights).values() if torch.is_tensor(t))
        assert launches[0].reads + launches[1].reads == once + between


@pytest.mark.parametrize("size", [64, 97])
def test_a_frame_multiplies_what_the_form_says(size):
    launches = frame(size)
    said = fuse(random_face2face_rho(), size).multiplications()
    assert sum(launch.multiplications for launch in launches) == sum(said.values())
    motion = [launch for launch in launches if launch.stage == "motion"]
    assert sum(launch.multiplications for launch in motion) == said["motion"]
    assert {launch.stage for launch in launches} == set(model.STAGES)
    assert launches[-1].writes == size * size * 3


def test_views_are_free_and_copies_are_not():
    x = torch.zeros(4, 6)
    assert traced(lambda: x.t()[1:].view(5, 4).unsqueeze(0)) == []
    (launch,) = traced(lambda: x.to(torch.bfloat16))
    assert (launch.reads, launch.writes) == (96, 48)
    assert len(traced(lambda: x.add_(1))) == 1


def test_layers_of_other_kinds_are_refused():
    weight = torch.zeros(4, 3, 3, 3)
    with pytest.raises(ValueError, match="conv2d: a layer that is none of our ops"):
        traced(lambda: torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8), weight))


def test_time_is_the_longer_of_bytes_and_arithmetic():
    shares = model.Shares(memory=1.0, tensor=1.0, half2=1.0, gap_us=0.0)
    moving = Launch("warp", "warp", int(model.MEMORY), 0)
    assert model.seconds(moving, "float32", shares) == 1
    product = Launch("motion", "conv", 1, 1, tensor=int(model.TENSOR["float32"] / 2))
    assert model.seconds(product, "float32", shares) == 1
    assert model.seconds(product, "two-level float16", shares) == pytest.approx(59.9 / 119.5)
    assert model.seconds(Launch("warp", "warp", 0, 0), "float32", model.Shares()) == pytest.approx(1.5e-6)


def test_rows_add_up_and_say_modelled():
    launches = [Launch(stage, "op", 10**6 * i, 10**6, 7 * 10**6, 10**8, 10**7) for i, stage in enumerate(model.STAGES)]
    for accumulation in model.TENSOR:
        row = model.row(1440, accumulation, launches, model.Shares())
        assert row["modelled ms"] == pytest.approx(sum(row[stage] for stage in model.STAGES))
        assert row["modelled ms"] == pytest.approx(
            sum(model.seconds(launch, accumulation, model.Shares()) for launch in launches) * 1e3
        )
        assert row["MB"] == pytest.approx(15)
        assert row["GMAC"] == pytest.approx(0.035)
        assert row["accumulation"].endswith(", modelled")


def test_every_output_says_modelled(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model.timing, "RESULTS", tmp_path)
    monkeypatch.setattr(model, "SIZES", (64, 1440))
    monkeypatch.setattr(model, "frame", lambda size: [Launch("motion", "conv", size, size, size, size)])
    monkeypatch.setattr("sys.argv", ["model_2080ti.py"])
    model.main()
    lines = capsys.readouterr().out.splitlines()
    assert "modelled ms" in lines[0]
    assert all("modelled" in line for line in lines[2:])
    result = json.loads((tmp_path / "cpu" / "model_2080ti.json").read_text(encoding="utf-8"))
    assert result["modelled"] is True
    assert "modelled" in result["title"]
    assert "**Modelled, nobody has measured it.**" in result["notes"]
    assert "assumed" in result["notes"]


def test_shares_come_from_the_newest_results(tmp_path):
    assert model.measured_shares(tmp_path) == model.Shares()
    environment = {"gpu": "NVIDIA H200"}

    def put(folder, name, rows):
        path = tmp_path / folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"environment": environment, "rows": rows}), encoding="utf-8")

    rows = [{"MB": mb, "of a copy": f"{share}%", "ours ms": 1.0} for mb, share in ((1, 5), (9, 60), (20, 80), (2, 7))]
    put("cuda", "warp", rows)
    shares = model.measured_shares(tmp_path)
    assert shares.memory == pytest.approx(0.82 * 0.7)
    assert shares.tensor == model.Shares().tensor
    put("gpu/2026-01-02", "warp", [{"MB": 1, "of a copy": "100%", "ours ms": 1.0}])
    product = {"MB": 1, "of a copy": "10%", "ours ms": 1.0, "dtype": "float16", "GMAC": 98.95}
    put("gpu/2026-01-02", "mbconv", [product, product | {"dtype": "float32", "GMAC": 1.0}])
    shares = model.measured_shares(tmp_path)
    assert shares.memory == pytest.approx(0.82)
    assert shares.tensor == pytest.approx(0.2)
    assert "NVIDIA H200 in 2026-01-02" in shares.source
