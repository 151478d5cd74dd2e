"""The engine on a GPU, the real one or a pretended one, gives what it gives on the CPU, in the memory asked for."""

import numpy as np
import pytest
import torch
from engine_case import PaintedTracker, frame, make, motion, source
from pretend_cuda import Pretended

from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.models.refined_warp import form as form_module
from fastreenact.models.refined_warp.networks import random_refined_warp

REFINED = random_refined_warp(0)
REFINED.metadata |= {"size": "64", "motion_size": "64"}
FORMS = [
    {"model": "landmark-warp"},
    {"model": "landmark-warp", "size": 64, "paste": True},
    {"model": "face2face-rho", "weights": random_face2face_rho(0), "size": 64},
    {"model": "face2face-rho", "weights": random_face2face_rho(0), "size": 64, "paste": True},
    {"model": "refined-warp", "weights": REFINED},
]
NAMES = ["warp", "warp pasted", "published", "published pasted", "refined"]


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch):
    """Options of an engine there."""
    if request.param == "real":
        yield {"device": "cuda", "dtype": "float32"}
        return
    with Pretended(monkeypatch):
        yield {"device": "cuda", "dtype": "float32"}


def need_same(found, wanted):
    difference = np.abs(np.asarray(found).astype(int) - wanted)
    assert difference.max() <= 2
    assert (difference <= 1).mean() > 0.999


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_engine_gives_the_frames_of_the_cpu(form, gpu):
    with make(**form) as plain, make(**form, **gpu) as engine:
        for one in (plain, engine):
            one.add(source(1))
        for index in (0, 7):
            need_same(engine.step(frame(index)), plain.step(frame(index)))
            need_same(engine.step(motion(index), avatar=1), plain.step(motion(index), avatar=1))
        out = np.zeros((2, *engine.output_size, 3), np.uint8)
        assert engine.step_many(motion(9), out=out) is out
        need_same(out, plain.step_many(motion(9)))


@pytest.mark.parametrize(
    "options", [{"size": 64}, {"paste": True, "size": 96}, {"source": source()[:301, :197]}], ids=str
)
def test_the_default_models_frames_of_several_portraits(options, gpu, monkeypatch):
    """Sizes that the nodes do not divide; portraits in turn and together, more than there are graphs for at a time."""
    monkeypatch.setattr(form_module, "_LARGE", np.inf)  # on the CPU frame by frame, from NumPy's field
    with make(**FORMS[4], **options) as plain, make(**FORMS[4], **options, **gpu) as engine:
        for one in (plain, engine):
            for seed in (1, 2):
                one.add(options.get("source", source(seed)))
        for avatars in ((0,), (2, 0, 1), (1, 1), (0, 2, 1), (0, 1, 2, 0), (1,) * 5, (2, 0)):
            drivers = [motion(3 * i + len(avatars)) for i in range(len(avatars))]
            found, wanted = (np.asarray(one.step_many(drivers, avatars=avatars)) for one in (engine, plain))
            need_same(found, wanted)
        need_same(engine.step(motion(40), avatar=2), plain.step(motion(40), avatar=2))


def test_faces_of_several_sizes_are_drawn_in_groups(gpu, monkeypatch):
    """Nodes that lie further apart: a graph of their own, and frames in the order that was asked for."""
    monkeypatch.setattr(form_module, "_LARGE", np.inf)
    near = np.ascontiguousarray(source(1).repeat(2, 0).repeat(2, 1)[: len(source()), : source().shape[1]])
    near[0, 0, 0], near[0, 1, 0] = 0, 77

    def tracker(image):
        found = PaintedTracker()(image)
        return found._replace(points=found.points * 2) if found and image[0, 1, 0] == 77 else found

    with make(**FORMS[4], tracker=tracker) as plain, make(**FORMS[4], tracker=tracker, **gpu) as engine:
        for one in (plain, engine):
            one.add(near)
        drivers = [motion(i) for i in range(4)]
        found, wanted = (np.asarray(one.step_many(drivers, avatars=(0, 1, 1, 0))) for one in (engine, plain))
        need_same(found, wanted)
        assert len(engine._renderer._form._replayed._groups) == 2


@pytest.mark.parametrize("profile", [False, True])
@pytest.mark.parametrize("form", FORMS[2::2], ids=NAMES[2::2])
def test_engine_times_the_graph_or_its_stages(form, profile, gpu):
    with make(**form, **gpu, profile=profile) as engine:
        for index in range(2):
            engine.step(frame(index))
        inside = {"rasterize", "decode"}
        assert engine.timings.keys() >= {"track", "fit", "retarget"} | (inside if profile else {"graph"})
        assert ("graph" in engine.timings) == (not profile)
        assert bool(inside & engine.timings.keys()) == profile


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_frames_stay_on_the_gpu(form):
    with make(**form) as plain, make(**form, device="cuda", dtype="float32") as engine:
        wanted = plain.step(frame(5))
        there = torch.from_numpy(frame(5)).cuda()
        found = engine.step(there)
        assert found.device == there.device
        need_same(found.cpu().numpy(), wanted)
        out = torch.zeros((*engine.output_size, 3), dtype=torch.uint8, device="cuda")
        assert engine.step(motion(7), out=out) is out
        need_same(out.cpu().numpy(), plain.step(motion(7)))


@pytest.mark.gpu
def test_cupy_goes_in_and_comes_out():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    with make(**FORMS[2]) as plain, make(**FORMS[2], device="cuda", dtype="float32") as engine:
        found = engine.step(cupy.asarray(frame(5)))
        assert isinstance(found, cupy.ndarray)
        need_same(found.get(), plain.step(frame(5)))
        out = cupy.zeros((*engine.output_size, 3), cupy.uint8)
        assert engine.step(motion(7), out=out) is out
        need_same(out.get(), plain.step(motion(7)))
