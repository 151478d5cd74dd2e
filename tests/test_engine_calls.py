"""How far it is from `Engine.step` to the kernels: calls inside each other, as a reader or a debugger follows them."""

import sys

import pytest
from engine_case import landmarks, make, motion
from face2face_rho_case import model

MOST = 15  # calls, the first Engine.step, the last the kernels' own


def chains_to_the_kernels(work):
    """The calls that are open each time that a recording is replayed, outermost first."""
    stack, chains = [], []

    def follow(frame, event, what):
        if event == "call":
            stack.append(frame.f_code.co_qualname)
        elif event == "c_call":
            stack.append(what.__name__)
            if what.__name__ == "replay":  # of `_C.Recording`: here Python ends
                chains.append(tuple(stack))
        elif stack:  # a return, or the profile's own end
            stack.pop()

    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        work()
    finally:
        sys.setprofile(before)
    return chains


@pytest.mark.parametrize("name", ["face2face-rho", "refined-warp"])
@pytest.mark.parametrize("many", [False, True])
def test_a_replayed_step_is_few_calls_from_the_kernels(name, many):
    weights = model(size="64") if name == "face2face-rho" else None
    with make(model=name, weights=weights, size=64) as engine:

        def work(index):
            return engine.step_many([landmarks(index)] * 2) if many else engine.step(motion(index))

        work(1)  # records
        chains = chains_to_the_kernels(lambda: work(2))
    assert chains
    for chain in chains:
        found = chain[chain.index("Engine.step_many" if many else "Engine.step") :]
        assert found[-2:] == ("Replay.__call__", "replay")
        assert len(found) <= MOST, " > ".join(found)
