"""The renderer that goes on: less memory where it runs out, float32 where halves overflow. On the CPU, by injection."""

import logging

import numpy as np
import pytest
import torch
from conftest import assert_frames_close
from contract_case import ByHand, portrait
from face2face_rho_case import face, model, picture
from torch.utils._python_dispatch import TorchDispatchMode

from fastreenact import renderer as module
from fastreenact.face.crop import Box
from fastreenact.models import MODELS
from fastreenact.models.face2face_rho.form import Face2FaceRhoForm
from fastreenact.models.protocol import Cues, Model
from fastreenact.models.refined_warp.networks import random_refined_warp
from fastreenact.synth.heads.render import make_person, random_pose, render
from fastreenact.timings import NO_TIMER

CPU = torch.device("cpu")
GPU = torch.device("cuda")
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
DTYPES = {torch.float16: torch.bfloat16}  # float16 is not for the CPU


@pytest.fixture(scope="module")
def net():
    return model()


def drawn():
    """Source, driver and picture of a person, for what needs a face."""
    rng = np.random.default_rng(0)
    person, calm = make_person(2), np.zeros(51, np.float32)
    seen, other = (render(person, random_pose(rng), calm, 96, 4) for _ in range(2))
    return (seen.keypoints, seen.pose), (other.keypoints, other.pose), seen.image


@pytest.fixture
def said(caplog):
    """Warnings so far."""
    caplog.set_level(logging.WARNING, logger="fastreenact")
    return lambda: [record.getMessage() for record in caplog.records]


class Fault:
    """Stands in for a GPU whose memory ends: makes forms on the CPU, and raises where it is told to."""

    def __init__(self, monkeypatch, error=NO_MEMORY):
        self.made = []
        self.fails_at = set()  # (what, dtype, share)
        self.error = error
        real = Model.loader.fget
        monkeypatch.setattr(Model, "loader", property(lambda model: FaultyLoader(self, real(model))))

    def make(self, loader, weights, size, dtype, device, share, profile):
        way = (str(dtype).removeprefix("torch."), share) if device.type == "cuda" else ("cpu", share)
        self.made.append(way)
        self.check("fuse", way)
        form = loader.form(weights, size, DTYPES.get(dtype, dtype), CPU, share, profile)
        for call in ("encode", "drive"):
            setattr(form, call, self.watched(call, way, getattr(form, call)))
        return form

    def check(self, what, way):
        if (what, *way) in self.fails_at:
            raise self.error

    def watched(self, what, way, call):
        def run(*arguments, **options):
            self.check(what, way)
            return call(*arguments, **options)

        return run


class FaultyLoader:
    def __init__(self, fault, loader):
        self.fault, self.loader = fault, loader

    def form(self, *settings):
        return self.fault.make(self.loader, *settings)


WAYS = [("float32", 1), ("float16", 1), ("float16", 2), ("float16", 4), ("cpu", 1)]


@pytest.mark.parametrize("what", ["fuse", "encode", "drive"])
@pytest.mark.parametrize("fails", [1, 2, 4])
def test_memory_that_runs_out_is_one_warning(net, fails, what, said, monkeypatch):
    fault = Fault(monkeypatch)
    fault.fails_at = {(what, *way) for way in WAYS[:fails]}
    renderer = ByHand("face2face-rho", 128, net, torch.float32, GPU)
    resident, other = (renderer.encode(picture(128), *face(name)) for name in ("source", "other source"))
    frame = renderer.drive(resident, *face("driver"))
    assert fault.made[-1] == WAYS[fails]
    assert len(said()) == 1
    assert said()[0].startswith("out of memory with float32 on cuda: goes on with ")
    assert frame.shape == (128, 128, 3)
    plain = ByHand("face2face-rho", 128, net, torch.float32, CPU)
    wanted = plain.drive(plain.encode(picture(128), *face("source")), *face("driver"))
    error = (frame.float() - wanted.float()).pow(2).mean().sqrt()
    assert error < (1e-6, 6, 45, 60, 1e-6)[fails]  # levels; these weights are random and draw noise at every size
    assert renderer.drive(other, *face("driver")).shape == (128, 128, 3)
    assert len(said()) == 1


def test_memory_that_runs_out_later_draws_the_same_frame_and_all_portraits(net, said, monkeypatch):
    fault = Fault(monkeypatch)
    renderer = ByHand("face2face-rho", 64, net, torch.float32, GPU)
    residents = [renderer.encode(picture(64), *face(name)) for name in ("source", "other source")]
    before = [renderer.drive(resident, *face("driver")) for resident in residents]
    assert not said()
    fault.fails_at = {("drive", *way) for way in WAYS[:4]}
    out = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    keypoints, pose = face("driver")
    assert renderer.drive_many(residents, [keypoints] * 2, [pose] * 2, out) is out
    assert len(said()) == 1
    assert torch.equal(out, torch.stack(before))  # the CPU again, in float32


@pytest.mark.parametrize(
    ("error", "caught"),
    [
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("no"), False),
    ],
)
def test_other_errors_are_not_taken_for_it(net, error, caught, monkeypatch):
    fault = Fault(monkeypatch, error)
    fault.fails_at = {("encode", "float32", 1)}
    renderer = ByHand("face2face-rho", 64, net, torch.float32, GPU)
    if caught:
        renderer.encode(picture(64), *face("source"))
        assert fault.made == WAYS[:2]
    else:
        with pytest.raises(type(error), match=str(error)):
            renderer.encode(picture(64), *face("source"))


def test_a_capture_that_fails_for_it_is_known_by_its_cause():
    def capture():
        try:
            raise NO_MEMORY
        finally:
            raise RuntimeError("capture_end: operation failed due to a previous error")

    with pytest.raises(RuntimeError) as caught:
        capture()
    assert module._out_of_memory(caught.value)
    assert not module._out_of_memory(RuntimeError("capture_end"))


@pytest.mark.parametrize("fails", [1, 2])
def test_memory_that_runs_out_on_the_cpu_shrinks_the_networks(net, fails, said, monkeypatch):
    fault = Fault(monkeypatch, MemoryError())
    fault.fails_at = {("encode", "cpu", share) for share in (1, 2)[:fails]}
    renderer = ByHand("face2face-rho", 256, net, torch.float32, CPU)
    frame = renderer.drive(renderer.encode(picture(256), *face("source")), *face("driver"))
    assert fault.made == [("cpu", 1), ("cpu", 1), ("cpu", 2), ("cpu", 4)][: 2 + fails]
    assert frame.shape == (256, 256, 3)
    smaller = f"goes on with float32 on cpu, networks at 1/{2 * fails} of the size"
    assert said() == [f"out of memory with float32 on cpu: {smaller}"]


@pytest.mark.parametrize("name", ["face2face-rho", "landmark-warp"])
def test_memory_that_never_comes_back_is_an_error_and_the_renderer_lives(net, name, monkeypatch):
    fault = Fault(monkeypatch, RuntimeError("[...] DefaultCPUAllocator: can't allocate memory: you tried to ..."))
    renderer = ByHand(name, 64, None if name == "landmark-warp" else net, torch.float32, CPU)
    source, driver, _ = drawn()
    resident = renderer.encode(picture(64), *source)
    wanted = renderer.drive(resident, *driver)
    fault.fails_at = {("fuse", "cpu", share) for share in (1, 2, 4)} | {("drive", "cpu", 1)}
    with pytest.raises(MemoryError, match="not enough memory for frames of this size: choose a smaller one"):
        renderer.drive(resident, *driver)
    fault.fails_at = set()
    assert_frames_close(renderer.drive(resident, *driver), wanted)


class NoMemory(TorchDispatchMode):
    """PyTorch finds no memory at one of the places where an operation makes something new."""

    def __init__(self, at=-1):
        super().__init__()
        self.at, self.places = at, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(made.alias_info is None for made in function._schema.returns):
            self.places += 1
            if self.places - 1 == self.at:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: ...")
        return function(*args, **(kwargs or {}))


FORMS = ("face2face-rho", "refined-warp", "landmark-warp")


@pytest.mark.row(
    "R5",
    "no memory at one of the allocations of networks, portrait and frame on the CPU: every frame is "
    "drawn, with one warning",
)
def test_memory_that_runs_out_anywhere_on_the_cpu_is_one_warning(net, row, caplog):
    caplog.set_level(logging.WARNING, logger="fastreenact")
    source, driver, image = drawn()
    over, places = over_base(), {}
    for form in FORMS:
        weights = {"face2face-rho": net, "refined-warp": over, "landmark-warp": None}[form]
        size = 96 if form == "face2face-rho" else None

        def frame(form=form, size=size, weights=weights):
            renderer = ByHand(form, size, weights, torch.float32)
            resident = renderer.encode(image, *source, *([] if size == 96 else [Box(48, 48, 96)]))
            return renderer.drive(resident, *driver)

        with NoMemory() as mode:
            wanted = frame()
        places[form] = range(0, mode.places, row.amount(-(-mode.places // 3), 1))
        for place in places[form]:
            caplog.clear()
            with NoMemory(place):
                found = frame()
            assert [record.getMessage() for record in caplog.records] == [
                "out of memory with float32 on cpu: goes on after giving back what it held"
            ], f"{form}, place {place}"
            assert torch.equal(found, wanted), f"{form}, place {place}"
    counts = ", ".join(f"{form} {len(tried)}" for form, tried in places.items())
    row.measured(f"places tried: {counts}; all drawn, one warning each")


def test_the_landmark_warp_goes_to_the_cpu_at_once(said, monkeypatch):
    fault = Fault(monkeypatch)
    fault.fails_at = {("fuse", "float16", 1)}
    ByHand("landmark-warp", None, None, torch.float16, GPU)
    assert fault.made == [("float16", 1), ("cpu", 1)]
    assert said() == ["out of memory with float16 on cuda: goes on with float32 on cpu"]


def test_networks_over_a_base_shrink_without_the_portrait(monkeypatch):
    over = over_base()
    form = MODELS["refined-warp"].loader.form(over, None, torch.float32, CPU, 2, False)
    assert form._networks.size == 64
    assert form.side is None


def test_enlarged_frames_are_those_of_the_smaller_networks(net):
    loader = MODELS["face2face-rho"].loader
    large, small = (loader.form(net, s, torch.float32, CPU, k, False) for s, k in ((128, 2), (64, 1)))
    assert isinstance(large, Face2FaceRhoForm)
    assert large.side == 128
    flat = np.broadcast_to(np.array([200, 30, 90], np.uint8), (128, 128, 3))
    drawn, frame = (torch.zeros(1, side, side, 3, dtype=torch.uint8) for side in (64, 128))
    for form, image, out in ((small, np.ascontiguousarray(flat[:64, :64]), drawn), (large, flat, frame)):
        state = form.encode(portrait(image, *face("source")))
        assert form.drive([state], [Cues.known(*face("driver"))], out, NO_TIMER)
    wanted = torch.nn.functional.interpolate(drawn.permute(0, 3, 1, 2).double(), (128, 128), mode="bilinear")
    assert_frames_close(frame[0], wanted[0].permute(1, 2, 0).round().byte())


def networks_of(renderer):
    return renderer.renderer._form._networks


def plant(renderer, where, value=float("inf")):
    """A value that is not finite in the networks of halves; those of float32 are made from healthy weights."""
    step = networks_of(renderer)._step_of(1)
    picture, head = step.decoder.up4[-1], step.motion.heads[2].conv
    layers = {"picture": picture.weights.project_bias, "field": head.weights.bias}
    layers[where][0] = value


def over_base():
    """Random weights of networks at 128 that draw over a base."""
    made = random_refined_warp(3)
    made.metadata |= {"size": "128", "motion_size": "128"}
    return made


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["picture", "field"])
@pytest.mark.parametrize("form", ["face2face-rho", "refined-warp"])
def test_frames_of_overflown_halves_are_made_again_in_float32(net, form, where, value, said):
    over = form == "refined-warp"
    weights = over_base() if over else net
    source, driver, image = drawn() if over else (face("source"), face("driver"), picture(64))
    half, exact = (ByHand(form, None if over else 64, weights, dtype) for dtype in (torch.bfloat16, torch.float32))
    resident, wanted = half.encode(image, *source), exact.drive(exact.encode(image, *source), *driver)
    assert not torch.equal(half.drive(resident, *driver), wanted)
    assert not said()
    plant(half, where, value)
    out = torch.zeros_like(wanted)
    for _ in range(2):
        assert half.drive(resident, *driver, out) is out
        assert torch.equal(out, wanted)
    assert said() == ["values beyond what bfloat16 holds: frames with such are made again in float32"]
    keypoints, pose = driver
    outs = torch.zeros(2, *wanted.shape, dtype=torch.uint8)
    networks_of(half)._step_of(2).decoder.up4[-1].weights.project_bias[0] = value
    half.drive_many([resident] * 2, [keypoints] * 2, [pose] * 2, outs)
    assert torch.equal(outs, torch.stack([wanted] * 2))
    assert len(said()) == 1


def test_float32_is_not_asked(net, said):
    renderer = ByHand("face2face-rho", 64, net, torch.float32, CPU)
    resident = renderer.encode(picture(64), *face("source"))
    plant(renderer, "picture")
    renderer.drive(resident, *face("driver"))
    assert renderer.renderer._exact is None
    assert not said()


def test_float32_in_place_of_halves_goes_to_the_cpu_without_memory(net, said, monkeypatch):
    fault = Fault(monkeypatch)
    fault.fails_at = {("fuse", "float32", 1)}
    renderer = ByHand("face2face-rho", 64, net, torch.float16, GPU)
    resident = renderer.encode(picture(64), *face("source"))
    plant(renderer, "picture")
    frame = renderer.drive(resident, *face("driver"))
    assert fault.made == [("float16", 1), ("float32", 1), ("cpu", 1)]
    plain = ByHand("face2face-rho", 64, net, torch.float32, CPU)
    assert torch.equal(frame, plain.drive(plain.encode(picture(64), *face("source")), *face("driver")))
    assert len(said()) == 2
