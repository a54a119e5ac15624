"""A GPU played by the CPU: true CUDA tensors in host memory, computed by the CPU's kernels.

`runtime.c` stands for CUDA's runtime, so torch makes tensors on "cuda". `Pretend` does each
operation on them with the CPU's kernel, on the same memory. What a device refuses (a CPU tensor
beside one of its own) is refused, and whatever makes the host wait for the device is noted, with
its place. It says nothing about speed, memory, the numerics of real kernels, or waits inside them.
"""

from __future__ import annotations

import concurrent.futures.thread
import os
import subprocess
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HERE = Path(__file__).parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SMALL = 64 * 1024  # bytes: so much, from memory that is not pinned, the driver copies at once
STUBS = {  # of two headers that the runtime's own include, and that its wheel lacks
    "host_config.h": "#pragma once\n",
    "host_defines.h": "#pragma once\n#define CUDARTAPI\n#define CUDARTAPI_CDECL\n"
    + "".join(
        f"#define {name}\n"
        for name in "__host__ __device__ __global__ __shared__ __constant__ __managed__ "
        "__device_builtin__ __device_builtin_texture_type__ __device_builtin_surface_type__ "
        "__cudart_builtin__ __specialization_static".split()
    )
    + "#define __align__(n) __attribute__((aligned(n)))\n#define __dv(x)\n"
    "#define __forceinline__ __inline__ __attribute__((always_inline))\n",
}
aten = torch.ops.aten
INDEXED = {
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
    aten._index_put_impl_.default,
}  # fmt: skip
COPIES = {aten._to_copy.default, aten.copy_.default}
NATIVE = {  # what needs no kernel
    aten._local_scalar_dense.default, aten.empty.memory_format, aten.empty_strided.default,
    aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default,
    aten.detach.default, aten.set_.source_Storage, aten.set_.source_Storage_storage_offset,
    aten.set_.source_Tensor, aten.resize_.default, aten._unsafe_view.default,
    aten.lift_fresh.default, aten.is_pinned.default, aten._pin_memory.default,
    aten.record_stream.default,
}  # fmt: skip
VIEWS = "transpose_ squeeze_ unsqueeze_ t_ as_strided_ swapaxes_ swapdims_".split()


def build(folder: Path) -> str:
    """Compile the runtime into a folder and return its path; a RuntimeError says why not."""
    found = [p for p in map(Path, torch.__path__) for p in p.parent.glob("nvidia/*/include")]
    include = next((p for p in found if (p / "cuda_runtime_api.h").is_file()), None)
    if include is None or torch.version.cuda is None:
        raise RuntimeError("torch without CUDA, or without the headers of its runtime")
    (folder / "crt").mkdir(parents=True, exist_ok=True)
    for name, text in STUBS.items():
        (folder / "crt" / name).write_text(text)
    library = folder / "libcuda.so.1"
    align = "-D__builtin_align__(a)=__attribute__((aligned(a)))"
    command = [
        "gcc",
        "-w",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wl,-soname,libcuda.so.1",
        align,
        f"-I{folder}",
        f"-I{include}",
    ]
    try:
        subprocess.run([*command, "-o", library, HERE / "runtime.c", "-ldl"], check=True,
                       capture_output=True, text=True)  # fmt: skip
    except FileNotFoundError as error:
        raise RuntimeError("no gcc") from error
    return str(library)


def host(x: Tensor) -> Tensor:
    """The same memory as a CPU tensor."""
    storage = x.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    same = torch._C._construct_storage_from_data_pointer(storage.data_ptr(), CPU, storage.nbytes())
    seen = torch.empty(0, dtype=x.dtype).set_(same, x.storage_offset(), x.shape, x.stride())
    return torch._neg_view(seen) if x.is_neg() else seen


def device(x: Tensor) -> Tensor:
    """A CPU tensor's numbers as one of the device."""
    made = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA)
    if x.numel():
        host(made).copy_(x)
    return made


class Pretend(TorchDispatchMode):
    """Inside, operations on CUDA tensors are played; `waits` counts by kind and place."""

    def __init__(self) -> None:
        """Nothing has waited yet."""
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()

    def note(self, kind: str) -> None:
        """Count a wait, with the functions of ours that led to it."""
        places = []
        for frame in reversed(traceback.extract_stack(limit=60)[:-2]):
            if "/serlib/" in frame.filename:
                place = frame.filename.rpartition("/serlib/")[2].removesuffix(".py")
                places.append(f"{place.replace('/', '.')}.{frame.name}")
        self.waits[kind, " < ".join(places) or "backward"] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Play one operation."""
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        wanted = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        on_device = [x for x in tensors if x.is_cuda]
        if not on_device and (wanted is None or wanted.type != "cuda"):
            return func(*args, **kwargs)
        self._look(func, args, kwargs, wanted)
        name = func._schema.name.removeprefix("aten::")
        if func in NATIVE or func.is_view or name in VIEWS or func.namespace == "prim":
            return func(*args, **kwargs)
        if name in ("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss"):
            return False
        beside = [tuple(x.shape) for x in tensors if not x.is_cuda and x.dim()]
        # Lengths of CTC are asked for on the CPU; an index may lie there, and is counted.
        if on_device and beside and func not in INDEXED | COPIES and "ctc_loss" not in name:
            raise RuntimeError(f"tensors of cuda and of the CPU {beside} meet in {func}")
        return self._played(func, args, kwargs, wanted)

    def _played(self, func, args, kwargs, wanted):
        own = {}  # so that what an operation returns of its arguments stays what it was

        def down(x):
            if isinstance(x, Tensor) and x.is_cuda:
                below = host(x)
                own[id(below)] = x
                return below
            if isinstance(x, torch.Generator) and x.device.type == "cuda":
                return None
            return CPU if isinstance(x, torch.device) and x.type == "cuda" else x

        given = {k: CPU if k == "device" and v is not None else tree_map(down, v)
                 for k, v in kwargs.items() if k != "pin_memory"}  # fmt: skip
        found = func(*tree_map(down, args), **given)
        if wanted is not None and wanted.type == "cpu":
            return found
        in_place = func._schema.name.endswith("_")
        if in_place and args and isinstance(args[0], Tensor):
            return args[0]
        return tree_map(lambda x: own.get(id(x)) if id(x) in own else device(x)
                        if isinstance(x, Tensor) else x, found)  # fmt: skip

    def _look(self, func, args, kwargs, wanted) -> None:
        """Note an operation for which the host waits."""
        if func is aten._local_scalar_dense.default:
            self.note("a number is read")
        if func in (aten.nonzero.default, aten.masked_select.default):
            self.note("a count is read")
        if func in INDEXED:
            index = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in index):
                self.note("a count is read")
            if any(not i.is_cuda for i in index):
                self.note("an index of the CPU")
        if func not in COPIES:
            return
        if func is aten._to_copy.default:
            source, target = args[0], (wanted or args[0].device).type
            flows = kwargs.get("non_blocking", False)
        else:
            source, target = args[1], args[0].device.type
            flows = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if source.device.type == "cuda" and target == "cpu" and not flows:
            self.note("a tensor is fetched")
        if source.device.type == "cpu" and target == "cuda":
            at_once = source.nbytes <= SMALL or source.is_pinned()
            if not (flows and at_once):
                self.note("a tensor is sent")


class Lstm(torch.autograd.Function):
    """An LSTM of the device, whose fused kernel has no parts that could be played."""

    @staticmethod
    def forward(context, options, input, *rest):
        """The CPU's, in float32."""
        copies = [host(x.detach()).float().requires_grad_() for x in (input, *rest)]
        with torch.enable_grad():
            found = PLAIN_LSTM(copies[0], copies[1:3], copies[3:], *options)
        context.saved = found, copies, [x.dtype for x in (input, *rest)]
        return tuple(device(x.detach().to(input.dtype)) for x in found)

    @staticmethod
    def backward(context, *slopes):
        """Its gradients, in the types of the arguments."""
        found, copies, kinds = context.saved
        pairs = [(y, host(g).float()) for y, g in zip(found, slopes, strict=True) if g is not None]
        parts = torch.autograd.grad(
            [y for y, _ in pairs], copies, [g for _, g in pairs], allow_unused=True
        )
        given = (None if g is None else device(g.to(k)) for g, k in zip(parts, kinds, strict=True))
        return None, *given


PLAIN_LSTM = torch._VF.lstm


def _lstm(input, hx, weights, *options):
    """torch's function, with the device's rule that all types are alike."""
    if isinstance(hx, Tensor) or not input.is_cuda:
        return PLAIN_LSTM(input, hx, weights, *options)
    rest = [*hx, *weights]
    if torch.is_autocast_enabled("cuda"):
        kind = torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", enabled=False):
            input, rest = input.to(kind), [x.to(kind) for x in rest]
            return Lstm.apply(options, input, *rest)
    if odd := [x for x in rest if (x.device, x.dtype) != (input.device, input.dtype)]:
        raise RuntimeError(f"an LSTM of the device takes one type and place, not {odd[0].dtype}")
    return Lstm.apply(options, input, *rest)


def install() -> Pretend:
    """Play the device for the rest of this process, in every thread of its pools."""
    if "libcuda.so.1" not in os.environ.get("LD_PRELOAD", ""):
        raise RuntimeError("the pretended runtime is not loaded: see tests/test_gpu.py")
    torch._VF.lstm = torch.nn.modules.rnn._VF.lstm = _lstm
    torch.nn.RNNBase.flatten_parameters = lambda self: None
    for kind in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{kind}_sdp")(False)
    mode = Pretend()
    synchronize, item = torch.cuda.synchronize, concurrent.futures.thread._WorkItem
    run = item.run

    def counted(*args, **kwargs):
        mode.note("all work is awaited")
        return synchronize(*args, **kwargs)

    def played(self, *args):
        with mode:
            return run(self, *args)

    torch.cuda.synchronize, item.run = counted, played
    mode.__enter__()
    return mode
