"""What follows from a declaration: plans that serve other tensors, keys with all that matters, a bounded cache."""

import sys

import pytest
import torch
from conftest import assert_close

from fastreenact import _C, ops
from fastreenact.ops import define

warp_module = sys.modules[ops.warp.__module__]


def test_a_plan_made_with_one_tensor_for_two_arguments_serves_two(generator):
    """The same shapes, then: one table as factor and summand, two tables, and those in turn."""
    features, field = torch.randn(1, 5, 6, 3, generator=generator), torch.rand(1, 5, 6, 2, generator=generator) - 0.5
    first, second = torch.randn(2, 1, 5, 6, 3, generator=generator)
    warp_module._WARP._plans.clear()
    for scale, shift in ((first, first), (first, second), (second, first)):
        for out in (None, torch.empty(1, 5, 6, 3)):
            found = ops.warp(features, field, scale=scale, shift=shift, out=out)
            expected = ops.warp_reference(features.double(), field.double(), scale=scale.double(), shift=shift.double())
            assert_close(found, expected)
    assert len(warp_module._WARP._plans) == 2


def test_a_missing_factor_stays_in_the_plan(generator):
    """It is made once, and its memory is not given to others in between."""
    features, field = torch.randn(1, 5, 6, 3, generator=generator), torch.rand(1, 5, 6, 2, generator=generator) - 0.5
    warp_module._WARP._plans.clear()
    for _ in range(3):
        shift = torch.randn(3, generator=generator)
        rest = [torch.full((3,), float("nan")) for _ in range(50)]  # what took the place of memory that was given back
        expected = ops.warp_reference(features.double(), field.double(), shift=shift.double())
        assert_close(ops.warp(features, field, shift=shift), expected)
        assert len(rest) == 50


def test_plans_are_bounded(monkeypatch):
    monkeypatch.setattr(define, "_MOST_PLANS", 4)
    warp_module._WARP._plans.clear()
    for width in range(1, 20):
        assert ops.warp(torch.ones(1, 1, width, 1), torch.zeros(1, 1, 1, 2)).shape == (1, 1, width, 1)
        assert len(warp_module._WARP._plans) <= 4


def test_weights_with_and_without_an_expansion_have_plans_of_their_own(generator):
    """Of one spec: what is there decides how the kernel runs."""
    x = torch.randn(1, 6, 7, 16, generator=generator)

    def noise(*sizes):
        return torch.randn(*sizes, generator=generator).double()

    for expands in (True, False, True):
        first = (noise(16, 16), noise(16)) if expands else (None, None)
        kernel = ops.MbconvKernel(*first, noise(16, 3, 3), noise(16), noise(8, 16), noise(8))
        found = ops.mbconv(x, ops.pack_mbconv(kernel, torch.float32))
        assert_close(found, ops.mbconv_reference(x.double(), kernel))


def test_gradients_are_refused_after_a_plan_was_made(generator):
    x, weight = torch.randn(1, 4, 4, 2, generator=generator), torch.zeros(1, 4, 4, 2)
    with torch.no_grad():
        ops.warp(x.requires_grad_(), weight)
    with pytest.raises(ValueError, match="features: requires grad"):
        ops.warp(x, weight)


def test_a_call_needs_its_own_views_and_numbers():
    view = ((1, 4, 4, 2), (32, 8, 2, 1), 0)
    with pytest.raises(TypeError, match="warp: needs the keyword activation"):
        _C.warp({"features": view, "field": view, "out": view})
    numbers = {"activation": 0, "border": False, "field_bilinear": False}
    with pytest.raises(TypeError, match="warp: knows no view feature"):
        _C.warp({"feature": view}, **numbers)
    with pytest.raises(TypeError, match="keywords that it does not know"):
        _C.warp({"features": view}, **numbers, more=1)
    with pytest.raises(TypeError, match="border is of a type that does not fit"):
        _C.warp({"features": view}, **numbers | {"border": 1.5})
    with pytest.raises(TypeError, match="warp: needs 1 addresses"):
        _C.warp({"features": view}, **numbers)(1, 2)
