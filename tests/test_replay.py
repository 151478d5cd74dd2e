"""Replays: ops called once, run again in one go."""

import threading

import pytest
import torch
from conftest import DEVICES, assert_close

from fastreenact.ops import Replay, conv, conv_reference, pack_conv, plain_kernel, spade, spade_reference


class Timer:
    def __init__(self):
        self.times = []

    def add(self, name, ms):
        self.times.append((name, ms))


def make(generator, device):
    """Two ops, the second on the first one's result, as a body and its reference."""
    weight = torch.randn(20, 6, 3, 3, generator=generator, dtype=torch.float64).float().double()
    kernel = plain_kernel(weight.to(device), torch.zeros(20, dtype=torch.float64, device=device), padding=1)
    weights = pack_conv(kernel, torch.float32, device)
    x = torch.randn(1, 33, 29, 6, generator=generator).to(device)
    middle, out = (torch.zeros(1, 33, 29, 20, device=device) for _ in range(2))
    table = torch.randn(1, 2, 2, 20, generator=generator).to(device)
    rows = torch.randint(0, 2, (33,), generator=generator, dtype=torch.int32).to(device)
    columns = torch.randint(0, 2, (29,), generator=generator, dtype=torch.int32).to(device)

    def body(replay):
        replay.mark("first")
        with replay.branch():
            conv(x, weights, out=middle)
        replay.join()
        replay.mark("second")
        spade(middle, table, table, rows, columns, out=out)

    def expected():
        return spade_reference(conv_reference(x, kernel), table.double(), table.double(), rows, columns)

    return x, out, body, expected


@pytest.mark.parametrize("device", DEVICES)
def test_replay_computes_from_what_the_tensors_hold(device, generator):
    x, out, body, expected = make(generator, device)
    replay = Replay(body, torch.device(device))
    for _ in range(3):
        x.copy_(torch.randn(x.shape, generator=generator))
        replay()
        assert_close(out, expected(), (1e-5, 2e-6))


def test_replay_times_what_is_marked(generator):
    _, _, body, _ = make(generator, "cpu")
    timer = Timer()
    Replay(body, torch.device("cpu"))(timer)
    assert [name for name, _ in timer.times] == ["first", "second"]
    assert all(ms > 0 for _, ms in timer.times)


def test_replay_holds_on_any_number_of_threads(generator):
    from fastreenact import _C

    _, out, body, expected = make(generator, "cpu")
    before = _C.num_threads()
    try:
        for threads in (1, 2, 5):
            _C.set_num_threads(threads)
            replay = Replay(body, torch.device("cpu"))
            for _ in range(50):
                out.zero_()
                replay()
            assert_close(out, expected(), (1e-5, 2e-6))
    finally:
        _C.set_num_threads(before)


def test_replays_of_two_threads_do_not_mix(generator):
    """The second finds the workers taken and does all by itself."""
    cases = [make(generator, "cpu") for _ in range(2)]
    replays = [Replay(body, torch.device("cpu")) for _, _, body, _ in cases]

    def work(replay):
        for _ in range(100):
            replay()

    threads = [threading.Thread(target=work, args=(replay,)) for replay in replays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _, out, _, expected in cases:
        assert_close(out, expected(), (1e-5, 2e-6))


def test_a_body_that_fails_ends_the_recording(generator):
    x, out, body, _ = make(generator, "cpu")

    def broken(replay):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Replay(broken, torch.device("cpu"))
    body(Replay(lambda replay: None, torch.device("cpu")))  # ops outside of a recording are not recorded
    empty = Replay(lambda replay: None, torch.device("cpu"))
    out.zero_()
    empty()
    assert not out.any()
    assert x.any()
