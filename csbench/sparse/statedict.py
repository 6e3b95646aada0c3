"""State dicts as people save them, made plain: nesting, prefixes, half precision, prune's masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from csbench.errors import CheckpointError
from csbench.sparse.threads import one_thread

NESTED = (
    "state_dict", "model_state_dict", "model", "net", "module", "ema", "state_dict_ema",
    "model_ema",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, Lightning
COUNTERS = ("num_batches_tracked", "n_averaged")  # inference reads neither
SHOWN = 3


@one_thread()
def plain(content: object, path: object) -> dict[str, Tensor]:
    """float32 tensors by the parameter's plain name, from whatever a checkpoint file holds."""
    raw = _innermost(content)
    state = {str(k): v for k, v in raw.items() if isinstance(v, Tensor)} if raw else {}
    if not any(v.ndim >= 2 and v.is_floating_point() for v in state.values()):
        raise CheckpointError(
            f"'{path}' holds no weights ({_summary(content)}); expected a state dict: "
            "save it with torch.save(model.state_dict(), 'model.pth')"
        )
    prefix = common_prefix(state)
    named = {bare(key, prefix): value for key, value in state.items()}
    state = {key: _float32(value) for key, value in _pruned(named).items()}
    for key, value in state.items():
        _check_finite(key, value, path)
    return state


def common_prefix(keys: Iterable[str]) -> str:
    """The wrappers' prefix that all keys share, counters aside: `module.`, `_orig_mod.module.`."""
    names = [key for key in keys if not key.endswith(COUNTERS)]
    prefix = ""
    while True:
        more = [p for p in PREFIXES if names and all(n.startswith(prefix + p) for n in names)]
        if not more:
            return prefix
        prefix += more[0]


def bare(key: str, prefix: str) -> str:
    """A key without the common prefix and without torch.compile's marks inside it."""
    return key.removeprefix(prefix).replace("_orig_mod.", "")


def fit(state: Mapping[str, Tensor], model: nn.Module, path: object, name: str) -> None:
    """Load a state dict into a model; raises CheckpointError where keys or shapes differ."""
    own = model.state_dict()
    prefix = common_prefix(own)
    target = {bare(key, prefix): key for key in own}
    missing = [k for k in target if k not in state and not k.endswith(COUNTERS)]
    extra = [k for k in state if k not in target and not k.endswith(COUNTERS)]
    shapes = {
        k: (list(state[k].shape), list(own[target[k]].shape))
        for k in target
        if k in state and state[k].shape != own[target[k]].shape
    }
    if missing or extra or shapes:
        raise CheckpointError(_misfit(missing, extra, shapes, path, name))
    known = {target[k]: v for k, v in state.items() if k in target}
    model.load_state_dict(known, strict=False)


def classifier(state: Mapping[str, Tensor]) -> str | None:
    """The layer that ends the network: the last of the linear layers that are nested least."""
    linear = [k.removesuffix(".weight") for k, v in state.items() if _is_linear(k, v)]

    def order(name: str) -> tuple[int, list[tuple[int, str]]]:
        parts = name.split(".")
        return -len(parts), [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]

    return max(linear, key=order, default=None)


def _is_linear(key: str, value: Tensor) -> bool:
    return key.endswith("weight") and value.ndim == 2 and value.is_floating_point()


def _innermost(content: object) -> Mapping[str, object] | None:
    if not isinstance(content, Mapping):
        return None
    for key in NESTED:
        inner = _innermost(content.get(key))
        if inner is not None and any(isinstance(value, Tensor) for value in inner.values()):
            return inner
    return content


def _summary(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    return f"its keys are {_some([str(key) for key in content])}" if content else "it is empty"


def _pruned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torch.nn.utils.prune's `x_orig` and `x_mask` joined into `x`, and nothing else changed."""
    joined = {}
    for key, value in state.items():
        if key.endswith("_orig") and f"{key.removesuffix('_orig')}_mask" in state:
            mask = state[f"{key.removesuffix('_orig')}_mask"]
            joined[key.removesuffix("_orig")] = torch.where(mask != 0, value, 0)
        elif not (key.endswith("_mask") and f"{key.removesuffix('_mask')}_orig" in state):
            joined[key] = value
    return joined


def _float32(value: Tensor) -> Tensor:
    value = value.detach()
    if value.layout != torch.strided:
        value = value.to_dense()
    return value.float() if value.is_floating_point() else value


def _check_finite(key: str, value: Tensor, path: object) -> None:
    if not value.is_floating_point() or value.numel() == 0:
        return
    low, high = value.aminmax()  # NaN comes through, and nothing is allocated
    if torch.isfinite(low) and torch.isfinite(high):
        if low < 0 and key.endswith("running_var"):  # its root would be NaN
            raise CheckpointError(
                f"checkpoint '{path}' holds a negative variance in {key} ({low.item():g}); "
                "expected batch norm's statistics: take an earlier checkpoint"
            )
        return
    bad = ~torch.isfinite(value)
    nans = int(value.isnan().sum())
    first = bad.nonzero()[0].tolist()
    raise CheckpointError(
        f"checkpoint '{path}' holds {nans} NaN and {int(bad.sum()) - nans} infinite values in "
        f"{key}, first at {first}; expected finite weights: take an earlier checkpoint"
    )


def _misfit(
    missing: list[str], extra: list[str], shapes: dict[str, tuple[list[int], list[int]]],
    path: object, name: str,
) -> str:  # fmt: skip
    layers = {key.rpartition(".")[0] for key in shapes}
    if not missing and not extra and len(layers) == 1:
        given, own = next(iter(shapes.values()))
        if given[1:] == own[1:]:
            layer = layers.pop()
            return (
                f"checkpoint '{path}' has {given[0]} outputs in {layer}, {name} has {own[0]}; "
                f"expected the same classes: name a model with {given[0]} (FILE.py:factory)"
            )
    found = []
    if missing:
        found.append(f"{len(missing)} keys missing ({_some(missing)})")
    if extra:
        found.append(f"{len(extra)} unknown ({_some(extra)})")
    if shapes:
        lines = [f"{k} is {given}, expected {own}" for k, (given, own) in shapes.items()]
        found.append(f"{len(shapes)} of another shape ({_some(lines)})")
    return (
        f"checkpoint '{path}' does not fit {name}: {'; '.join(found)}; "
        f"type csbench inspect {path} to see what it holds, and name its --model"
    )


def _some(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
