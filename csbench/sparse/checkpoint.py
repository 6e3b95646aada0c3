"""Checkpoints: load what people have, untrusted; save as safetensors, whole or not at all."""

from __future__ import annotations

import hashlib
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
    content = safetensors.torch.save(_separate(state), notes)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return hashlib.sha256(content).hexdigest()


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
