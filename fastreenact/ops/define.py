"""One declaration per op: its arguments, what it asks of them, and where it runs.

From an `Op` follow the functional form, the form that writes into `out`, the fakes, the cached plans and the
registration with torch.library. `Library.define` and `impl` are used: a call costs 1 to 2 us then instead of 3 to 6.
"""

import importlib.util
import inspect
import logging
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import checks

log = logging.getLogger("fastreenact")
_LIBRARY = torch.library.Library("fastreenact", "DEF")
_MOST_PLANS = 4096  # of an op: a program with more shapes pays for the checks again
_BATCH = threading.local()  # `.calls`: what `batched` collects on this thread
_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Sequence[float]: "float[]",
    Sequence[float] | None: "float[]?",
    Sequence[int] | None: "SymInt[]?",
    bool: "bool",
    float: "float",
    int: "SymInt",
    str: "str",
    str | None: "str?",
    torch.dtype: "ScalarType",
}


Views = dict[str, Tensor | None]  # by the names that the kernel reads


class Out(NamedTuple):
    """What an op gives, where it has to make it."""

    shape: Sequence[int]
    dtype: torch.dtype | None = None  # None: that of the first tensor


class _Plan:
    """A checked call: everything that the addresses of its tensors do not change."""

    def __init__(self, op: "Op", args: Any, made: list[tuple[Sequence[int], torch.dtype]] | None = None) -> None:
        """`made`: shapes and dtypes of the results, which are new memory."""
        if made is None:
            op.check(args)
        self.made = made
        written = [i for i in op.written if args[i] is not None]
        nothing = all(args[i].numel() == 0 for i in written[: op.results or None])
        numbers = None if nothing else op.numbers(args)
        self.empty = numbers is None
        self.call: Any = None
        self.tensors = [i for i, value in enumerate(args) if isinstance(value, Tensor)]
        place = {i: k for k, i in enumerate(self.tensors)}
        # Of what is written and anything else: both places among `tensors`, and their bytes.
        bytes_of = {i: checks.extent(args[i]) for i in self.tensors if args[i].numel() and i not in op.packed}
        pairs = [(w, r) for w in written for r in bytes_of if w in bytes_of and (r not in written or r < w)]
        self.pairs = [(place[w], bytes_of[w], place[r], bytes_of[r]) for w, r in pairs] if made is None else []
        if numbers is None or (args[0].device.type != "cpu" and not op.cuda):
            return
        views, self.call = op.prepare(args, numbers)
        # A view is an argument, whose address comes with the call, or was made for the plan and stays where it is. The
        # same tensor may have come for several arguments: the next call's need not, so that names go first.
        named = {args._fields[i]: (args[i], k) for i, k in place.items()}
        at = {id(args[i]): k for i, k in reversed(place.items())}
        self.kept = [t for t in views.values() if t is not None and id(t) not in at]
        self.fixed = [0, *(t.data_ptr() for t in self.kept)]
        at |= {id(t): len(place) + k for k, t in enumerate([None, *self.kept])}
        self.order = [
            named[name][1] if name in named and named[name][0] is t else at[id(t)] for name, t in views.items()
        ]


class Op:
    """An op of ours: torch.ops.fastreenact.<name>, and <name>_out."""

    def __init__(
        self,
        function: Callable[..., Any],
        check: Callable[[Any], Any],
        *,
        name: str = "",
        arguments: str | None = None,
        outs: tuple[str, ...] = ("out",),
        with_out: tuple[str, ...] = (),
        mutates: tuple[str, ...] = (),
        may_alias: tuple[str, ...] = (),
        packed: tuple[str, ...] = (),
        kernel: str = "",
        numbers: Callable[[Any], dict[str, Any] | None] = lambda a: {},
        views: Callable[[Any, Views], Views] = lambda a, given: given,
        cuda: bool = False,
        triton: Callable[[Any], object] | None = None,
        fallback: Callable[[Any], object] | None = None,
    ) -> None:
        """
        Args:
            function: what users call; its parameters are the op's arguments, in order, where `arguments` is None.
            check: raises what the op raises for its arguments by name, `out` among them, None where it is to be made;
                gives an `Out`, or one for each of `outs`.
            name: in Python and in the messages, where it is not that of `function`.
            arguments: as of a torch.library schema, without `out`.
            outs: names of what it gives; none for an op that works in place.
            with_out: parameters that only the form that writes into `out` has.
            mutates: arguments that are written besides `outs`.
            may_alias: arguments that `out` may be.
            packed: arguments that `pack_<op>` made, of which nothing but the address can change the call.
            kernel: the name of its kernel in `_C` and of its CUDA source, where that is another.
            numbers: what the kernel gets beside the tensors; None where there is nothing to do.
            views: the tensors that it gets, made of the arguments and of those among them that are tensors, by name.
            cuda: whether csrc/<kernel>.cu is there.
            triton: launches its Triton kernel.
            fallback: PyTorch's own, on a GPU that has to do without ours.
        """
        self.name = name or function.__name__
        self.kernel = kernel or self.name
        self.check, self.numbers, self.views, self.may_alias = check, numbers, views, may_alias
        self.cuda, self.triton, self.fallback = cuda, triton, fallback
        given = arguments.split(", ") if arguments else _arguments_of(function)
        more = [part for part in given if part.split()[-1] in with_out]
        made = with_out if "out" in mutates else ("out", *with_out)
        given = [part for part in given if part.split()[-1] not in made]
        every = [*given, *(f"Tensor {out}" for out in outs), *more]
        fields = [part.split()[-1] for part in every]
        self.Arguments: Any = namedtuple(self.name, fields)  # type: ignore[misc]
        self.results = len(outs)
        self.written = [fields.index(field) for field in (*outs, *mutates)]
        self.tensors = [i for i, part in enumerate(every) if part.startswith("Tensor")]
        self.packed = [fields.index(field) for field in packed]
        self._keyed = [i for i in range(len(fields)) if i not in self.packed]
        self._missing = [None] * (len(outs) + len(more))
        self._plans: dict[Any, _Plan] = {}
        # Of each argument that has to be a dense tensor its name, and whether it may be missing.
        self._kinds = [
            ("" if field in packed or not part.startswith("Tensor") else field, "?" in part)
            for field, part in zip(fields, every, strict=True)
        ]
        written = dict(zip((*mutates, *outs), "abcdef", strict=False))
        inputs, last = ([_marked(part, written) for part in parts] for parts in (given, every[len(given) :]))
        if outs:
            result = "Tensor" if len(outs) == 1 else f"({', '.join(['Tensor'] * len(outs))})"
            self._functional = _register(f"{self.name}({', '.join(inputs)}) -> {result}", self._make, self._fake)
        schema = f"{self.name}{'_out' if outs else ''}({', '.join((*inputs, *last))}) -> ()"
        self._into = _register(schema, self._run_into, self._fake_into)

    def __call__(self, *arguments: Any, out: Any = None) -> Any:
        """The functional form: a new result, or several; or that which writes into `out` and gives it."""
        if out is None:
            self._need_tensors(arguments)
            return self._functional(*arguments)
        self.into(*arguments, out)
        return out

    def into(self, *arguments: Any) -> None:
        """The form that writes into `outs`, which follow the arguments."""
        self._need_tensors(arguments)
        self._into(*arguments)

    def on_gpu(self, *arguments: Any) -> None:
        """A call by the op's CUDA or Triton kernel, or without one in PyTorch's own, `outs` following the arguments."""
        self._on_gpu(self._plan(arguments), arguments)

    def prepare(self, args: Any, numbers: dict[str, Any]) -> tuple[Views, Any]:
        """The kernel's views, and its call in C++, which takes their addresses in this order."""
        views = self.views(args, {args._fields[i]: args[i] for i in self.tensors})
        described = {
            name: None if t is None else (t.shape, t.stride(), checks.DTYPES.get(t.dtype, -1))
            for name, t in views.items()
        }
        return views, getattr(_C, self.kernel)(described, **numbers)

    def _need_tensors(self, arguments: Sequence[Any]) -> None:
        """TypeError where the schema has a tensor and the caller none."""
        for value, (field, optional) in zip(arguments, self._kinds, strict=False):
            if field and not (value is None and optional):
                checks.need_tensor(field, value)

    def _key(self, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """All that checks look at, hashable: what passed once passes again."""
        key: list[Any] = [torch.is_grad_enabled()]
        count = len(arguments)
        for i in self._keyed:
            if i >= count:
                break
            value = arguments[i]
            if isinstance(value, Tensor):
                key += value.shape, value.stride(), value.dtype, value.device, value.requires_grad
            else:
                key.append(tuple(value) if isinstance(value, list) else value)
        for i in self.packed:
            key.append(None if arguments[i] is None else arguments[i].device)
        return tuple(key)

    def _plan(self, arguments: tuple[Any, ...]) -> _Plan:
        """The checked call of these arguments, made once for each set of shapes, strides, dtypes and numbers."""
        key = self._key(arguments)
        return self._plans.get(key) or self._remember(key, _Plan(self, self.Arguments(*arguments)))

    def _remember(self, key: Any, plan: _Plan) -> _Plan:
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[key] = plan
        return plan

    def _made(self, arguments: Sequence[Any]) -> list[tuple[Sequence[int], torch.dtype]]:
        """Shapes and dtypes of the results, the arguments checked."""
        found = self.check(self.Arguments(*arguments, *self._missing))
        return [(out.shape, out.dtype or arguments[0].dtype) for out in (found if isinstance(found, list) else [found])]

    def _make(self, *arguments: Any) -> Any:
        key = self._key(arguments)
        plan = self._plans.get(key)
        made = self._made(arguments) if plan is None else plan.made
        outs = [arguments[0].new_empty(shape, dtype=dtype) for shape, dtype in made or ()]
        every = (*arguments, *outs, *self._missing[len(outs) :])
        self._run(plan or self._remember(key, _Plan(self, self.Arguments(*every), made)), every)
        return outs[0] if len(outs) == 1 else tuple(outs)

    def _fake(self, *arguments: Any) -> Any:
        outs = [arguments[0].new_empty(shape, dtype=dtype) for shape, dtype in self._made(arguments)]
        return outs[0] if len(outs) == 1 else tuple(outs)

    def _run_into(self, *arguments: Any) -> None:
        self._run(self._plan(arguments), arguments)

    def _fake_into(self, *arguments: Any) -> None:
        self.check(self.Arguments(*arguments))

    def _run(self, plan: _Plan, arguments: Sequence[Any]) -> None:
        if plan.empty:
            return
        if arguments[0].device.type == "cpu":
            plan.call(*self._addresses(plan, arguments))
        else:
            self._on_gpu(plan, arguments)

    def _addresses(self, plan: _Plan, arguments: Sequence[Any]) -> list[int]:
        """Of the kernel's views, in their order; ValueError where what is written overlaps another argument."""
        found = [arguments[i].data_ptr() for i in plan.tensors]
        for w, w_bytes, r, r_bytes in plan.pairs:
            if found[w] < found[r] + r_bytes and found[r] < found[w] + w_bytes:
                out, other = (self.Arguments._fields[plan.tensors[i]] for i in (w, r))
                tensors = (arguments[plan.tensors[i]] for i in (w, r))
                checks.need_apart(out, next(tensors), other, next(tensors), same_allowed=other in self.may_alias)
        if plan.call is None:
            return []
        found += plan.fixed
        return [found[k] for k in plan.order]

    def _on_gpu(self, plan: _Plan, arguments: Sequence[Any]) -> None:
        addresses = self._addresses(plan, arguments)
        if plan.empty:
            return
        if self.triton is not None and has_triton(self.kernel):
            self.triton(self.Arguments(*arguments))
        elif self.cuda and cuda_kernels():
            calls = getattr(_BATCH, "calls", None)
            if calls is None:
                _launch(self.kernel, plan.call, addresses, arguments[0].device)
            else:
                calls.append((plan.call, tuple(addresses)))
        elif self.fallback is not None:
            self.fallback(self.Arguments(*arguments))
        else:
            first, device = self.Arguments._fields[0], arguments[0].device
            raise ValueError(f"{first}: got device {device}, needs cpu: {self.name} has no GPU kernel")


@contextmanager
def batched(name: str, device: torch.device) -> Iterator[None]:
    """Calls of one op inside, which do not depend on each other, become one launch by `_C.<name>_many` on a GPU."""
    _BATCH.calls = []
    try:
        yield
        if _BATCH.calls:
            _launch(name, getattr(_C, f"{name}_many")(_BATCH.calls), [], device)
    finally:
        _BATCH.calls = None


def _launch(name: str, call: Any, addresses: list[int], device: torch.device) -> None:
    """Launch a call's kernels on the current stream: nvcc's, or else NVRTC's."""
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        # The workspace may go to another tensor after this, but only for work that the same stream does later.
        workspace = torch.empty(call.workspace_bytes, dtype=torch.uint8, device=device)
        if _C.WITH_CUDA:
            call.launch(stream, workspace.data_ptr(), *addresses)
        else:
            from fastreenact.ops import nvrtc

            nvrtc.launch(name, call.launches(workspace.data_ptr(), *addresses), stream)


def named(args: Any, first: int, end: int | None = None) -> dict[str, Any]:
    """The arguments from `first` on by name, for a reference or a Triton kernel."""
    return dict(zip(args._fields[first:end], args[first:end], strict=True))


def _arguments_of(function: Callable[..., Any]) -> list[str]:
    """Its parameters as torch.library writes them: type and name."""
    return [
        f"{_TYPES[parameter.annotation]} {name}" for name, parameter in inspect.signature(function).parameters.items()
    ]


def _marked(argument: str, written: dict[str, str]) -> str:
    """An argument of a schema, with a mark if it is written."""
    kind, name = argument.split()
    return f"{kind.replace('Tensor', f'Tensor({written[name]}!)')} {name}" if name in written else argument


def _register(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define torch.ops.fastreenact.<name> for CPU and CUDA and return its overload, which is quicker to call."""
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, implementation, key)
    torch.library.register_fake(f"fastreenact::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.fastreenact, name).default


@cache
def has_triton(op: str) -> bool:
    """Whether Triton is installed; where it is not, log once that `op` runs in PyTorch's own kernels."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        log.warning("%s on the GPU runs in PyTorch's own kernels: Triton is not installed", op)
    return found


def cuda_kernels() -> bool:
    """Whether there are CUDA kernels, in the extension or compiled by CuPy at first use; says once what that means."""
    return bool(_C.WITH_CUDA) or _has_cupy()


@cache
def _has_cupy() -> bool:
    """Whether CuPy is installed; logs once what that means."""
    found = importlib.util.find_spec("cupy") is not None
    if found:
        log.info("the extension was built without nvcc: CuPy compiles its CUDA kernels at their first use")
    else:
        log.warning(
            "the GPU runs PyTorch's own kernels, without a graph: the extension was built without nvcc, and CuPy is "
            "missing (fastreenact doctor says what to do)"
        )
    return found


@cache
def architecture(device: torch.device) -> int:
    """Compute capability of a CUDA device times ten, 75 or 90; 0 of a CPU."""
    if device.type == "cpu":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
