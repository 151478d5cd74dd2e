"""The bilateral filter and the glitch gate."""

import tracemalloc

import numpy as np
import pytest

from fastreenact.face.smoothing import STATE_SIZE, BilateralFilter, GlitchGate

GROUPS = {
    "rotation": (slice(0, 3), 0.05),
    "translation": (slice(3, 5), 0.01),
    "scale": (slice(5, 6), 0.01),
    "expression": (slice(6, 57), 0.3),
}


def reference(states, times):
    """The formula, written out: window of 5 earlier frames, sigma 2 frames of 30 fps."""
    out = np.zeros(STATE_SIZE)
    for part, sigma in GROUPS.values():
        total = weights = 0.0
        for state, time in list(zip(states, times, strict=True))[-6:]:
            age = (times[-1] - time) * 30
            distance2 = ((state[part] - states[-1][part]) ** 2).sum()
            weight = np.exp(-(age**2) / 8) * np.exp(-distance2 / (2 * sigma**2))
            total, weights = total + weight * state[part], weights + weight
        out[part] = total / weights
    return out


@pytest.mark.parametrize("fps", [15, 24, 30, 60])
def test_filter_is_the_formula(fps):
    rng = np.random.default_rng(0)
    states, times, bilateral = [], [], BilateralFilter()
    for i in range(20):
        states.append(rng.normal(size=STATE_SIZE) * 0.02)
        times.append(i / fps)
        got = bilateral(states[-1], 30 / fps)
        np.testing.assert_allclose(got, reference(states, times), rtol=1e-9, atol=1e-12)


def test_filter_halves_noise_and_does_not_delay_a_step():
    rng = np.random.default_rng(0)
    bilateral = BilateralFilter()
    still = np.array([bilateral(rng.normal(size=STATE_SIZE) * 0.003) for _ in range(300)])[10:]
    assert still.std(axis=0).max() < 0.003 * 0.6
    step = np.full(STATE_SIZE, 1.0)
    np.testing.assert_allclose(bilateral(step), step, atol=1e-3)


def test_filter_forgets_on_reset_and_over_time():
    bilateral = BilateralFilter()
    for _ in range(6):
        bilateral(np.zeros(STATE_SIZE))
    value = np.full(STATE_SIZE, 0.004)
    assert bilateral(value, frames=1)[0] < 0.003
    np.testing.assert_allclose(bilateral(value, frames=60), value)
    bilateral(np.zeros(STATE_SIZE))
    bilateral.reset()
    np.testing.assert_array_equal(bilateral(value), value)


def test_filter_keeps_nothing_in_steady_state():
    bilateral, state = BilateralFilter(), np.zeros(STATE_SIZE)
    for _ in range(50):
        bilateral(state)
    tracemalloc.start()
    for _ in range(1000):
        bilateral(state)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20_000


def face(shift=0.0):
    rng = np.random.default_rng(5)
    return rng.random((72, 2)) + shift


def test_gate_holds_a_glitch_and_passes_its_return():
    gate = GlitchGate()
    passed = [gate(face(x), 1.0) for x in (0, 0, 0.2, 0, 0, -0.5, 0)]
    assert passed == [True, True, False, True, True, False, True]


def test_gate_delays_a_true_jump_by_one_frame():
    gate = GlitchGate()
    assert [gate(face(x), 1.0) for x in (0, 0, 0.2, 0.21, 0.22)] == [True, True, False, True, True]
    gate.reset()
    assert [gate(face(x), 1.0) for x in (0, 0.05, 0.1, 0.15, 0.2)] == [True, False, True, True, True]


def test_gate_does_not_take_two_glitches_for_movement():
    gate = GlitchGate()
    assert [gate(face(x), 1.0) for x in (0, 0.2, -0.2, 0)] == [True, False, False, True]


def test_gate_gives_in_after_three_frames():
    gate = GlitchGate()
    assert [gate(face(x), 1.0) for x in (0, 0.2, -0.4, 0.6, -0.8)] == [True, False, False, False, True]


def test_gate_allows_more_movement_for_more_time():
    gate = GlitchGate()
    gate(face(), 1.0)
    assert not gate(face(0.02), 1.0)
    gate.reset()
    gate(face(), 1.0)
    assert gate(face(0.02), 1.0, frames=4)
    gate.reset()
    assert gate(face(5.0), 1.0)
