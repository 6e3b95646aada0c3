"""Read a checkpoint file into tensors without running any code that it may hold.

The kind is told by the first bytes, not by the name. Tensors are memory-mapped where the format
allows: safetensors, and torch's zip archives.
"""

from __future__ import annotations

import argparse
import difflib
import pickle
import re
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from csbench.errors import CheckpointError

SAVE_HINT = "save it with torch.save(model.state_dict(), 'model.pth') or as .safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def read(path: Path) -> tuple[object, dict[str, str]]:
    """What the file holds, and the metadata of a safetensors file; raises CheckpointError."""
    size, head = _head(path)
    if size == 0:
        raise CheckpointError(f"checkpoint '{path}' is empty (0 bytes); copy or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"checkpoint '{path}' is a Git LFS pointer; type git lfs pull")
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _read_torch(path, mapped=head.startswith(b"PK")), {}
    if len(head) > 8 and head[8:9] == b"{":
        return _read_safetensors(path, size, int.from_bytes(head[:8], "little"))
    raise CheckpointError(
        f"'{path}' is not a checkpoint (it begins with {head[:12]!r}); expected .safetensors, or "
        "a .pth that torch.save wrote"
    )


def _head(path: Path) -> tuple[int, bytes]:
    """The file's size and first bytes."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)[:3]
        hint = f"name a file in it: {', '.join(inside)}" if inside else "it holds no checkpoint"
        raise CheckpointError(f"'{path}' is a directory; expected a checkpoint file; {hint}")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"'{path}' is a device or pipe; expected a checkpoint file")
    try:
        with path.open("rb") as file:
            return path.stat().st_size, file.read(64)
    except FileNotFoundError:
        raise CheckpointError(_missing(path)) from None
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint '{path}': {error.strerror}") from error


def _missing(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=2, cutoff=0.6)
    if near:
        hint = f"did you mean {' or '.join(str(path.with_name(name)) for name in near)}?"
    else:
        hint = "csbench sparsify --model resnet50 --pattern cs:4 -o FILE makes one"
    return f"no checkpoint '{path}'; {hint}"


def _read_safetensors(path: Path, size: int, header: int) -> tuple[object, dict[str, str]]:
    if header + 8 > size:
        raise CheckpointError(
            f"checkpoint '{path}' is truncated: its header alone takes {header + 8} bytes, "
            f"the file has {size}; copy or download it again"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint '{path}' is truncated or damaged ({_one_line(error)}); "
            "copy or download it again"
        ) from error


def _read_torch(path: Path, mapped: bool) -> object:
    try:
        # timm keeps its command line beside the weights; a Namespace runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unsafe(path, str(error))) from error
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"'{path}' is a TorchScript program; expected a state dict: {SAVE_HINT}"
            ) from error
        raise CheckpointError(
            f"checkpoint '{path}' is truncated, damaged or not torch's ({_one_line(error)}); "
            "copy or download it again"
        ) from error


def _unsafe(path: Path, message: str) -> str:
    found = re.search(r"(?:GLOBAL|global) ([\w.]+\.\w+)", message)
    if found is None:
        reason = message.partition("WeightsUnpickler error:")[2] or message
        return f"'{path}' is not a checkpoint of tensors ({_one_line(reason)}); {SAVE_HINT}"
    return (
        f"checkpoint '{path}' holds Python objects besides tensors ({found[1]}), which csbench "
        f"never loads because that runs code; expected tensors alone: {SAVE_HINT}"
    )


def _one_line(error: object) -> str:
    """The first sentence of an error: torch's go on with advice that does not hold here."""
    line = str(error).strip().partition("\n")[0].partition(". ")[0]
    return line[:160] or type(error).__name__
