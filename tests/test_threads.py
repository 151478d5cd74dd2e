"""The thread pool: lazy, usable after fork and from many threads, and the same result for any count."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from fastreenact import _C
from fastreenact.ops import warp


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


@pytest.fixture
def case(generator):
    features = torch.randn(2, 64, 64, 72, generator=generator)
    field = torch.rand(2, 64, 64, 2, generator=generator) * 2.4 - 1.2
    return features, field, warp(features, field)


@pytest.fixture
def restored_count():
    before = _C.num_threads()
    yield before
    _C.set_num_threads(before)


@pytest.mark.row("R2", "importing starts no threads and makes no CUDA context")
def test_import_starts_no_threads(row):
    code = """
import os, numpy, torch
def threads(): return len(os.listdir('/proc/self/task'))
others = threads()  # NumPy's BLAS starts its own
import fastreenact._C as c, fastreenact.engine
print(c.num_workers(), threads() - others, torch.cuda.is_initialized())
"""
    workers, threads, context = python(code).stdout.split()
    row.measured(f"{threads} threads started, CUDA context: {context}")
    assert (workers, threads, context) == ("0", "0", "False")


def test_workers_start_at_the_first_use():
    code = """
import torch
from fastreenact import _C, ops
assert _C.num_workers() == 0
ops.warp(torch.zeros(1, 64, 64, 64), torch.zeros(1, 64, 64, 2))
assert _C.num_workers() == 2, _C.num_workers()
_C.set_num_threads(1)
assert _C.num_workers() == 0
"""
    done = python(code, FASTREENACT_NUM_THREADS="3")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_workers_that_slept_may_use_the_processors_they_were_given():
    """Waking, a worker is kept off one processor for a moment."""
    code = """
import os, time, torch
from fastreenact import ops
def tasks(): return {int(name) for name in os.listdir('/proc/self/task')}
x, field = torch.zeros(1, 64, 64, 64), torch.zeros(1, 64, 64, 2)
others = tasks()
ops.warp(x, field)
workers = tasks() - others
assert len(workers) == 2, workers
for allowed in (os.sched_getaffinity(0), {min(os.sched_getaffinity(0))}):
    for worker in workers:
        os.sched_setaffinity(worker, allowed)
    for _ in range(5):
        time.sleep(0.01)
        ops.warp(x, field)
    time.sleep(0.1)
    assert all(os.sched_getaffinity(worker) == allowed for worker in workers)
"""
    done = python(code, FASTREENACT_NUM_THREADS="3", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_count_gives_the_same_bits(count, case, restored_count):
    features, field, expected = case
    _C.set_num_threads(count)
    for _ in range(20):
        assert torch.equal(warp(features, field), expected)


def test_eight_threads_at_once(case, restored_count):
    features, field, expected = case
    _C.set_num_threads(3)
    wrong = []

    def work() -> None:
        for _ in range(30):
            if not torch.equal(warp(features, field), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_count_changes_while_ops_run(case, restored_count):
    features, field, expected = case
    stop = threading.Event()
    wrong = []

    def work() -> None:
        while not stop.is_set():
            if not torch.equal(warp(features, field), expected):
                wrong.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    for turn in range(60):
        _C.set_num_threads(1 + turn % 4)
    stop.set()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert not wrong


@pytest.fixture
def plain_memory():
    """Memory as the system gives it: PyTorch fills it with NaN in threads of its own, which do not survive a fork."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


def ended(child: int) -> int:
    """The exit code of a forked child, which has ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@pytest.mark.row("R2", "an op in the parent, a fork, the same op in the child: done within 2 s, bit-equal")
def test_fork_after_use(case, restored_count, plain_memory, row):
    features, field, expected = case
    _C.set_num_threads(3)
    warp(features, field)
    seconds = []
    for _ in range(10):
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            # no PyTorch arithmetic here: its own threads do not survive a fork
            same = warp(features, field).numpy().tobytes() == expected.numpy().tobytes()
            os._exit(0 if same and _C.num_workers() == 2 else 1)
        assert ended(child) == 0
        seconds.append(time.monotonic() - start)
        assert torch.equal(warp(features, field), expected)
    row.measured(f"{len(seconds)} of 10 children, at most {max(seconds):.2f} s")
    assert max(seconds) < 2


def test_fork_while_another_thread_works(case, restored_count, plain_memory):
    features, field, expected = case
    _C.set_num_threads(3)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            warp(features, field)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if warp(features, field).numpy().tobytes() == expected.numpy().tobytes() else 1)
            assert ended(child) == 0
    finally:
        stop.set()
        thread.join(timeout=60)


def test_the_gil_is_released(case, restored_count):
    _C.set_num_threads(1)
    features = torch.randn(1, 512, 512, 64)
    field = torch.rand(1, 512, 512, 2) * 2 - 1
    begun = threading.Event()
    thread = threading.Thread(target=lambda: (begun.set(), warp(features, field)))
    thread.start()
    begun.wait()
    turns = 0
    while thread.is_alive():
        turns += 1
    assert turns > 100


@pytest.mark.parametrize("count", [0, -1, 2000])
def test_set_num_threads_refuses(count):
    with pytest.raises(ValueError, match=r"num_threads: got .* needs a whole number from 1 to 1024"):
        _C.set_num_threads(count)


@pytest.mark.parametrize("text", ["0", "two", "3x", "99999"])
def test_bad_environment_count(text):
    done = python("from fastreenact import _C; _C.num_threads()", FASTREENACT_NUM_THREADS=text)
    assert f"ValueError: FASTREENACT_NUM_THREADS={text}: needs a whole number from 1 to 1024" in done.stderr
