"""Run as a program, in a process of its own: does torch load, and what can it use? Prints one JSON object a line.

A broken torch, torchvision or driver may end the whole process, which then ends no more than this one. Imports nothing
of DeckBench.
"""

import sys

del sys.path[0]  # this folder: its files are no modules to import by their own name

import importlib  # noqa: E402
import json  # noqa: E402
from typing import Any  # noqa: E402


def emit(part: str, **facts: object) -> None:
    print(json.dumps({"part": part, **facts}), flush=True)


def message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def cuda_operation(torch: Any, device: int) -> str:
    """Empty when a product computed on the GPU is right; else what went wrong.

    The list of architectures a build names does not decide: a build without a Jetson's own may still run there.
    """
    try:
        numbers = torch.arange(4096, dtype=torch.float32).reshape(64, 64) % 7
        right = bool(
            torch.equal((numbers.to(f"cuda:{device}") @ numbers.to(f"cuda:{device}")).cpu(), numbers @ numbers)
        )
    except Exception as error:
        return message(error)
    return "" if right else "a product of two matrices came out wrong"


def main() -> None:
    try:
        import torch
    except BaseException as error:
        emit("torch", fault=message(error), absent=isinstance(error, ModuleNotFoundError) and error.name == "torch")
        return
    emit(
        "torch",
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
    )
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for device in range(count):
            fault = cuda_operation(torch, device)
            free, memory = (None, None) if fault else torch.cuda.mem_get_info(device)
            name = torch.cuda.get_device_name(device)
            emit("gpu", name=name, memory=memory, free=free, fault=fault)
    except Exception as error:
        emit("gpu", name="CUDA", memory=None, free=None, fault=message(error))
    try:
        torchvision = importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        emit("torchvision", absent=error.name == "torchvision", fault=message(error))
    except BaseException as error:
        emit("torchvision", absent=False, fault=message(error))
    else:
        emit("torchvision", version=str(torchvision.__version__))


if __name__ == "__main__":
    main()
