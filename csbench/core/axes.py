"""The axes of what can be measured, and how a text becomes a value on each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any, NamedTuple, get_args

import msgspec

from csbench.core.case import DTYPES, Task
from csbench.core.pattern import BUILT_IN, PatternSpec, parse, parse_sparsity, unknown_pattern
from csbench.errors import PatternError, UsageError, unknown

ImageSize = tuple[int, int, int]

# The models that csbench brings, and the (C, H, W) image each is made for: known without torch, so
# that a wrong name is told at once. csbench.models builds them.
MODELS: dict[str, ImageSize] = {
    "resnet18": (3, 224, 224),
    "resnet34": (3, 224, 224),
    "resnet50": (3, 224, 224),
    "resnet101": (3, 224, 224),
    "resnet152": (3, 224, 224),
    "vgg16_bn": (3, 224, 224),
    "vgg19_bn": (3, 224, 224),
    "mobilenet_v2": (3, 224, 224),
    "resnet20": (3, 32, 32),
    "resnet32": (3, 32, 32),
    "resnet18-cifar": (3, 32, 32),
}
DEVICES = ("auto", "cpu", "cuda")
SPARSE_PATTERNS = tuple(name for name in BUILT_IN if name != "dense")  # of `--pattern all`
SPARSITIES = (0.0, 0.5, 0.75, 0.875, 0.9375)  # Table 11's, where none are asked for


class Sweep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A product of axes. An empty axis takes its default, which may depend on the others.

    `pattern` empty: detected in the checkpoint, else dense. `sparsity` empty: 0, 50, 75, 87.5 and
    93.75 %, or what the pattern fixes. `backend` and `baseline` empty: what the device has. With
    the task "train-step" `backend` names schemes; `dataset` and `epochs` belong to it alone.
    """

    model: tuple[str, ...]
    checkpoint: tuple[str, ...] = ()
    seed: tuple[int, ...] = (0,)
    input: tuple[ImageSize, ...] = ()
    device: tuple[str, ...] = ("auto",)
    dtype: tuple[str, ...] = ("fp32",)
    batch: tuple[int, ...] = (1,)
    pattern: tuple[str, ...] = ()
    sparsity: tuple[float, ...] = ()
    baseline: tuple[str, ...] = ()
    backend: tuple[str, ...] = ()
    task: tuple[Task, ...] = ("infer",)
    dataset: tuple[str, ...] = ()
    epochs: tuple[int, ...] = ()


class Axis(NamedTuple):
    """How to read one value of an axis, an example for messages, and what `all` stands for."""

    parse: Callable[[str], Any]
    example: str
    all: tuple[str, ...] = ()


def values(axis: str, texts: Iterable[str]) -> tuple[Any, ...]:
    """Each text as a value of the axis, without repeats; raises UsageError on a wrong one."""
    known = AXES[axis]
    found: list[str] = []
    for text in map(str.strip, texts):
        found += known.all if text == "all" and known.all else (text,)
    return tuple(dict.fromkeys(map(known.parse, found)))


def specifications(pattern: str, wanted: Iterable[float]) -> list[PatternSpec]:
    """A pattern at each sparsity asked for, parameters filled in; raises PatternError.

    What the pattern states itself (`block@75%`, `nm:2:4`) is taken where nothing is asked for.
    """
    spec, asked = parse(pattern), tuple(wanted)
    if spec.sparsity is not None and asked not in ((), (spec.sparsity,)):
        raise PatternError(
            f"pattern '{pattern}' states a sparsity, and --sparsity others; give one of the two"
        )
    if not asked:
        asked = SPARSITIES if spec.own_sparsity is None else (spec.own_sparsity,)
    return [spec.at(sparsity) for sparsity in asked]


def whole_number(what: str, text: str, least: int) -> int:
    """A whole number of at least `least`; raises UsageError that says so."""
    if not re.fullmatch(r"[+-]?\d+", text) or int(text) < least:
        raise UsageError(f"{what} '{text}' is not a whole number of at least {least}")
    return int(text)


def _model(text: str) -> str:
    if ":" not in text and text not in MODELS:
        also = "(or timm:NAME, torchvision:NAME, FILE.py:factory)"
        raise UsageError(unknown("model", text, MODELS, also))
    return text


def _pattern(text: str) -> str:
    spec = parse(text)
    if spec.name not in BUILT_IN:
        added = tuple(entry.name for entry in entry_points(group="csbench.patterns"))
        if spec.name not in added:
            raise unknown_pattern(spec.name, (*BUILT_IN, *added))
    return str(spec)


def _image_size(text: str) -> ImageSize:
    numbers = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    size = tuple(int(n) for n in numbers.groups()) if numbers else ()
    if len(size) != 3 or 0 in size:
        raise UsageError(f"input size '{text}' is not CxHxW; expected for example 3x224x224")
    return (size[0], size[1], size[2])


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise UsageError(
            f"unknown device '{text}'; known: {', '.join(DEVICES)}, and cuda:1 for the second GPU"
        )
    return text


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise UsageError(unknown("dtype", text, DTYPES))
    return text


def _task(text: str) -> str:
    tasks = get_args(Task)
    if text not in tasks:
        raise UsageError(unknown("task", text, tasks))
    return text


def _name(text: str) -> str:
    if not text:
        raise UsageError("an empty name; leave the axis out to take the default")
    return text


AXES: dict[str, Axis] = {
    "model": Axis(_model, '"resnet50"'),
    "checkpoint": Axis(_name, '"resnet50-block.safetensors"'),
    "seed": Axis(lambda text: whole_number("seed", text, 0), "0"),
    "input": Axis(_image_size, '"3x224x224"'),
    "device": Axis(_device, '"auto"'),
    "dtype": Axis(_dtype, '"fp32"'),
    "batch": Axis(lambda text: whole_number("batch size", text, 1), "[1, 64]"),
    "pattern": Axis(_pattern, '"block:32x32"', all=SPARSE_PATTERNS),
    "sparsity": Axis(parse_sparsity, "[0, 50, 75, 87.5, 93.75]"),
    "baseline": Axis(_name, '"cudnn"'),
    "backend": Axis(_name, '["block-original", "cs"]'),
    "task": Axis(_task, '"infer"'),
    "dataset": Axis(_name, '"imagenet"'),
    "epochs": Axis(lambda text: whole_number("epochs", text, 1), "120"),
}
