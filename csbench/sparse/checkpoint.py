"""Checkpoints: load what people have, untrusted; save as safetensors, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from csbench import __version__
from csbench.errors import UsageError
from csbench.sparse import statedict
from csbench.sparse.reading import read


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """float32 tensors by plain parameter name, the file they came from, and its hash.

    `metadata` is what csbench sparsify wrote: pattern, sparsity, model, seed, csbench.
    """

    state_dict: dict[str, Tensor]
    path: Path
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> int | None:
        """Outputs of the last linear layer; None where there is none."""
        last = statedict.classifier(self.state_dict)
        return None if last is None else self.state_dict[f"{last}.weight"].shape[0]


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read .safetensors, .pth, .pt or .bin; raises CheckpointError in one line that says why not.

    No code in the file runs. Nested state dicts, wrappers' prefixes, half precision and
    torch.nn.utils.prune's masks are made plain; NaN and infinity are refused.
    """
    path = Path(path)
    content, metadata = read(path)
    return Checkpoint(statedict.plain(content, path), path, sha256_of(path), metadata)


def fit(checkpoint: Checkpoint, model: nn.Module, name: str | None = None) -> None:
    """Load a checkpoint into a model; raises CheckpointError with the keys that do not fit."""
    statedict.fit(checkpoint.state_dict, model, checkpoint.path, name or type(model).__name__)


def save(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> str:
    """Write a state dict as .safetensors and return its sha256.

    The file appears whole under its name or not at all; csbench's version joins the metadata.
    """
    path = target(path)
    notes = {"format": "pt", "csbench": __version__, **metadata}
    header, tensors = _ordered(safetensors.torch.save(_separate(state), notes))
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UsageError(
            f"cannot write '{path}': {error.strerror}; name a file in a folder that can be written"
        ) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(header)
            file.write(tensors)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # which file it was
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    digest = hashlib.sha256(header)
    digest.update(tensors)
    return digest.hexdigest()


def target(path: str | os.PathLike[str]) -> Path:
    """Where to save; raises UsageError for another suffix than .safetensors and missing folders."""
    path = Path(path)
    if path.suffix != ".safetensors":
        named = path.with_suffix(".safetensors")
        raise UsageError(f"cannot write '{path}': csbench saves safetensors; type {named}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write '{path}': no folder '{path.parent}'; type mkdir -p first")
    if path.is_dir():
        raise UsageError(f"cannot write '{path}': it is a directory; expected a file name")
    return path


def sha256_of(path: Path) -> str:
    """The hash of a file, read piece by piece."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _ordered(content: bytes) -> tuple[bytes, memoryview]:
    """Header and tensors of safetensors content, the header's keys in order.

    The library writes metadata in an order that differs from run to run, and with it the hash.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format wants tensors aligned
    return len(header).to_bytes(8, "little") + header, memoryview(content)[end:]


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    out = {}
    for key, value in state.items():
        tensor = value.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        out[key] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return out
