"""Whether a model fits a machine: the size of its weights, what else it needs, and an upper bound on its speed.

Sizes come from the checkpoint's own files, or from the published config for a model whose weights are not here. What is
needed besides the weights is an allowance, not a measurement: ALLOWANCE of the weights plus FIXED. It stands for the
CUDA context and torch's libraries (about 1 GB), the activations of one frame, and keys and values of one prompt
(GLM-4V-9B: 0.07 GB for 1700 tokens; Phi-3-vision: 1 GB for 2500).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench.containers.spec import Image
from deckbench.doctor.assess import has_nvidia, suits
from deckbench.doctor.finding import GB, Finding
from deckbench.errors import InputError
from deckbench.machine.bandwidth import bandwidth
from deckbench.machine.facts import THIS_MACHINE, Machine
from deckbench.models.families import BLIND, resolve, served_as, without_weights
from deckbench.models.files import Family, weight_files
from deckbench.progress import format_bytes, say

ALLOWANCE = 0.1
FIXED = 2 * GB
IMAGE = 16 * GB  # an image with CUDA and torch, unpacked, once while it is loaded and unpacked
SMALL_IMAGE = 4 * GB  # one without CUDA
CPU_BYTES = 4  # on a CPU every weight is computed with in float32
CACHED = 256e6  # bytes; weights below that may stay in a GPU's cache (72 MB in the largest of bandwidth.GPUS)
HEADER = 100 << 20  # bytes; safetensors allows no longer header
# Parts of a tensor's name that make it none of the language model's, and those that hold its tables of words.
SIGHT = re.compile(r"vision|visual|image|img|multi_modal|mm_projector|connector|audio|speech|resampler")
WORDS = re.compile(r"embed_tokens|word_embeddings")
HEAD = re.compile(r"(^|\.)(lm_head|output_layer)\.")
EXPERTS = re.compile(r"experts|router")
ANY = Family("", "a model", "give the folder of a vision-language model")


@dataclass(frozen=True)
class Sizes:
    """weights: how many numbers. stored: their bytes in the checkpoint. read: numbers of the language model that each
    token of an answer has to read, None where the names of the tensors do not tell."""

    weights: int
    stored: int
    read: int | None


@dataclass(frozen=True)
class Verdict:
    """What was found of one model on one machine; `facts` is the same for programs. fits: the answer."""

    findings: tuple[Finding, ...]
    facts: dict[str, Any]
    fits: bool


def headers(folder: Path) -> dict[str, tuple[int, int]]:
    """Tensor -> (numbers, bytes), from the headers of a folder's weight files. Raises InputError for broken files."""
    found = weight_files(folder, ANY)
    tensors: dict[str, tuple[int, int]] = {}
    for path in sorted({found} if isinstance(found, Path) else set(found.values())):
        tensors |= header(path)
    return tensors


def header(path: Path) -> dict[str, tuple[int, int]]:
    """The same of one safetensors file; the file must be as long as its header says."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= HEADER:
                raise ValueError(f"a header of {length} bytes")
            data = json.loads(file.read(length))
            tensors, end = {}, 0
            for name, entry in data.items():
                if name != "__metadata__":
                    first, last = entry["data_offsets"]
                    tensors[name] = (numbers(entry["shape"]), int(last) - int(first))
                    end = max(end, int(last))
            if 8 + length + end != file.seek(0, 2):
                raise ValueError("the file is cut off")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        fix = "the file is damaged or incomplete; copy the checkpoint again"
        raise InputError(f"not readable as safetensors ({error})", path, fix) from error
    return tensors


def numbers(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= int(side)
    return count


def read_of(tensors: Mapping[str, int]) -> int | None:
    """Numbers read for each token of an answer: the language model without its table of words, of which a token reads
    one row. A table that is the output layer as well is read whole. tensors: name -> numbers.

    None where experts take turns, or no tensor can be told to be of the language model.
    """
    if any(EXPERTS.search(name) for name in tensors):
        return None
    language = {name: count for name, count in tensors.items() if not SIGHT.search(name)}
    if len(language) == len(tensors) or not language:
        return None
    tied = not any(HEAD.search(name) for name in language)
    return sum(count for name, count in language.items() if tied or not WORDS.search(name))


def sizes(ref: str) -> Sizes | None:
    """The sizes behind a name or a folder; None for what has no weights here. Raises InputError."""
    found = resolve(ref.removeprefix(BLIND))
    if found.folder is None:
        return None
    if not found.has_weights:
        return published_sizes(found.text)
    tensors = headers(found.folder)
    counts = {name: count for name, (count, _) in tensors.items()}
    return Sizes(sum(counts.values()), sum(size for _, size in tensors.values()), read_of(counts))


def published_sizes(ref: str) -> Sizes:
    """The sizes of a published model, counted in its network, which is made without memory for the weights."""
    say(f"counting the weights of {ref} ...")
    from deckbench.models.random_weights import skeleton

    model = skeleton(ref)
    counts = {name: parameter.numel() for name, parameter in model.module.named_parameters()}
    kind = model.stated_dtype
    each = kind.itemsize if kind is not None else CPU_BYTES
    return Sizes(sum(counts.values()), sum(counts.values()) * each, read_of(counts))


def image_for(kind: str, machine: Machine, images: Mapping[str, Image]) -> Image | None:
    """The image that serves a model on a machine: with its GPU before without; None where there is none."""
    fitting = [image for image in images.values() if kind in image.serves and suits(machine, image)]
    fitting.sort(key=lambda image: image.gpu == "none")
    return fitting[0] if fitting else None


@dataclass(frozen=True)
class Place:
    """Where a model would run. image: the one that serves it. contained: in a container of it. own: without one.

    free: available bytes of the memory that the weights go into, None where unknown; where: which, for messages.
    """

    image: Image | None
    contained: bool
    own: bool
    on_gpu: bool
    free: int | None
    where: str


def place_for(
    kind: str, machine: Machine, images: Mapping[str, Image], *, torch_loads: bool, torch_gpu: int | None
) -> Place:
    """Where models of a kind would run on `machine`; see `assess_model`."""
    image = image_for(kind, machine, images)
    usable = machine.docker is not None and not machine.id_mapping
    contained = image is not None and usable and (image.gpu == "none" or has_nvidia(machine))
    on_gpu = torch_gpu is not None or (contained and image is not None and image.gpu != "none")
    free, where = free_memory(machine, on_gpu=on_gpu, torch_gpu=torch_gpu)
    if contained and not torch_loads and image is not None and image.gpu != "devices":
        limit = round(image.memory_gib * (1 << 30))
        if free is not None and limit < free:
            free, where = limit, f"allowed by {image.name}"
    return Place(image, contained, torch_loads, on_gpu, free, where)


def assess_model(
    ref: str,
    machine: Machine,
    images: Mapping[str, Image],
    *,
    torch_loads: bool = False,
    torch_gpu: int | None = None,
) -> Verdict:
    """Whether the model behind `ref` fits `machine`, and why.

    torch_loads: it can run on this machine without a container. torch_gpu: free bytes of the GPU that torch computes on
    there. Raises InputError for what is no model.
    """
    kind, known = served_as(ref), sizes(ref)
    place = place_for(kind, machine, images, torch_loads=torch_loads, torch_gpu=torch_gpu)
    findings = [image_line(kind, place, machine)]
    facts: dict[str, Any] = {
        "model": ref,
        "image": place.image.name if place.image else None,
        "device": "cuda" if place.on_gpu else "cpu",
    }
    fits = place.contained or place.own
    if known is None:
        findings.append(Finding(f"weights of {ref}", "good", "none: it needs no memory of its own"))
        return Verdict(tuple(findings), {**facts, "fits": fits}, fits)
    local = machine.where == THIS_MACHINE
    need, free = need_disk(ref, known, place.image, machine, local=local), free_disk(machine, local=local)
    held = known.stored if place.on_gpu else known.weights * CPU_BYTES
    memory, disk = memory_line(held, place.free, place.where), disk_line(need, free, local=local)
    read = None if known.read is None else round(known.read * held / known.weights)
    rate = bandwidth(machine) if place.on_gpu else None
    bound = rate / read if rate and read and read > CACHED else None
    findings += [weights_line(ref, known, held, on_gpu=place.on_gpu), memory, disk, speed_line(read, rate, bound)]
    fits = fits and "bad" not in (memory.state, disk.state)
    facts |= {
        "weights": known.weights,
        "stored_bytes": known.stored,
        "held_bytes": held,
        "needed_bytes": needed(held),
        "free_bytes": place.free,
        "disk_needed_bytes": need,
        "disk_free_bytes": free,
        "read_per_token_bytes": read,
        "bandwidth_bytes_per_s": rate,
        "decode_tokens_per_s_at_most": None if bound is None else round(bound, 2),
        "decode_is": "an estimate, not measured",
        "fits": fits,
    }
    return Verdict(tuple(findings), facts, fits)


def image_line(kind: str, place: Place, machine: Machine) -> Finding:
    """Which image serves a model on this machine."""
    name, image, own = f"image for {kind}", place.image, place.own
    if image is None:
        found = "no image serves it on this machine"
        if own:
            return Finding(name, "absent", f"{found}; it runs without a container")
        return Finding(name, "bad", found, "take a machine that one of `deckbench containers ls` is made for")
    if not place.contained:
        why = f"the daemon is {machine.id_mapping}" if machine.id_mapping else "the daemon has no nvidia runtime"
        why = "no docker daemon answers" if machine.docker is None else why
        return Finding(name, "absent" if own else "bad", f"{image.name}, and {why}", "see above")
    if image.tag not in machine.images:
        return Finding(name, "absent", f"{image.name}, not built there", f"deckbench containers build {image.name}")
    return Finding(name, "good", image.name)


def needed(held: int) -> int:
    """Bytes of memory for weights of `held` bytes and what comes beside them."""
    return round(held * (1 + ALLOWANCE) + FIXED)


def weights_line(ref: str, known: Sizes, held: int, *, on_gpu: bool) -> Finding:
    found = f"{known.weights:,} numbers, {format_bytes(known.stored)} as stored"
    found += "" if on_gpu else f"; a CPU holds them in float32: {format_bytes(held)}"
    return Finding(f"weights of {ref}", "good", found)


def free_memory(machine: Machine, *, on_gpu: bool, torch_gpu: int | None) -> tuple[int | None, str]:
    """(bytes, what they are in words) that can be taken of the memory that the weights go into."""
    if on_gpu and torch_gpu is not None and not machine.is_jetson:
        return torch_gpu, "free on the GPU"
    if on_gpu and machine.gpus and machine.gpus[0].free is not None:
        return machine.gpus[0].free, "free on the GPU"
    return machine.free_memory, "of memory free"


def memory_line(held: int, free: int | None, where: str) -> Finding:
    allowance = f"{ALLOWANCE:.0%} of them and {format_bytes(FIXED)}: an allowance"
    need = f"{format_bytes(needed(held))} needed (weights, {allowance})"
    if free is None:
        return Finding("memory for it", "absent", f"{need}; unknown how much is {where}")
    if needed(held) > free:
        fix = "end other programs, or take a machine or a GPU that has more"
        return Finding("memory for it", "bad", f"does not fit: {need}, {format_bytes(free)} {where}", fix)
    return Finding("memory for it", "good", f"fits: {need}, {format_bytes(free)} {where}")


def need_disk(ref: str, known: Sizes, image: Image | None, machine: Machine, *, local: bool) -> int:
    """Bytes of disk: weights that have to be copied, and an image that is not there yet."""
    weights = known.stored if not local or without_weights(ref.removeprefix(BLIND)) else 0
    if local or image is None or image.tag in machine.images:
        return weights
    return weights + round(SMALL_IMAGE if image.gpu == "none" else IMAGE)


def free_disk(machine: Machine, *, local: bool) -> int | None:
    """Free bytes where weights go: the working directory, or the remote daemon's disk."""
    return shutil.disk_usage(Path.cwd()).free if local else machine.docker_free


def disk_line(need: int, free: int | None, *, local: bool) -> Finding:
    where = "in this folder" if local else "at the daemon"
    found = f"{format_bytes(need)} needed" if need else "nothing needed"
    if free is None:
        return Finding("disk for it", "absent", f"{found}; unknown how much is free {where}")
    if need > free:
        return Finding("disk for it", "bad", f"{found}, {format_bytes(free)} free {where}", "free disk space")
    return Finding("disk for it", "good", f"{found}, {format_bytes(free)} free {where}")


def speed_line(read: int | None, rate: float | None, bound: float | None) -> Finding:
    """The bound that memory sets: each token of an answer reads the language model once.

    read: bytes a token. rate: bytes a second. bound: tokens a second.
    """
    if bound is not None and read is not None and rate is not None:
        over = f"{rate / GB:g} GB/s over {format_bytes(read)} a token"
        return Finding("decode speed", "good", f"at most {bound:.1f} tokens/s, an estimate, not measured: {over}")
    why = "the bandwidth of this memory is not known here"
    if read is None:
        why = "which weights a token reads cannot be told from their names"
    elif rate is not None:
        why = "weights this small may stay in a cache"
    return Finding("decode speed", "absent", f"no bound: {why}")
