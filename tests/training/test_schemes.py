"""What schemes do to weights and gradients, and that every one ends at its pattern."""

from __future__ import annotations

import math

import pytest
import torch

from csbench.core.pattern import PatternSpec, parse
from csbench.errors import UsageError
from csbench.training.data import Batch
from csbench.training.schemes import SCHEMES, make, specify
from csbench.training.step import Conditions, Trainer
from tests.training.nets import net

CPU = Conditions("cpu", "fp32")
PATTERNS = {
    "nm": "nm:2:4", "cs": "cs:4", "cs-c": "cs:2", "ovw": "ovw:8@0.75", "shfl-bw": "shfl-bw:8@0.75",
    "nm-argsort": "nm:2:4", "block": "block:8x8@0.5", "unstructured": "unstructured@0.9",
}  # fmt: skip


def batch(seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 8, 8, generator=draw), torch.randint(10, (8,), generator=draw)


def spec_of(text: str) -> PatternSpec:
    spec = parse(text)
    return spec.at(spec.own_sparsity or 0.0)


def trainer_of(name: str, how: Conditions = CPU, interval: int = 2) -> Trainer:
    torch.manual_seed(0)
    spec = spec_of(PATTERNS.get(name, name))
    scheme = make(name, spec, interval)
    return Trainer(net(), scheme, scheme.recipe, how)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_whole_schedule_ends_at_the_pattern(name: str, channels_last: bool) -> None:
    trainer = trainer_of(name, Conditions("cpu", "fp32", channels_last))
    steps = 12
    for step in range(steps):
        trainer.step(batch(step), trainer.scheme.sparsity_at(step, steps))
    trainer.scheme.finish()
    trainer.scheme.verify(trainer.model)
    kept = trainer.scheme.layers.flat.count_nonzero() / trainer.scheme.layers.flat.numel()
    assert float(kept) == pytest.approx(1 - trainer.scheme.sparsity, abs=0.02)


def test_sr_ste_is_the_published_rule() -> None:
    """dL/dW = g + 2e-4 (1 - mask) W with g the gradient of the masked weights, computed apart."""
    trainer = trainer_of("nm")
    scheme, images = trainer.scheme, batch()
    dense = [p.detach().clone() for p in scheme.layers.parameters]
    trainer.set_rate(0.0)  # the weights stay, so that only the gradient is looked at
    trainer.step(images)
    masks = [mask.clone() for mask in scheme.layers.masks]
    found = [p.grad.clone() for p in scheme.layers.parameters if p.grad is not None]

    torch.manual_seed(0)
    other = net().train()
    named = dict(other.named_parameters())
    weights = [named[name] for name in scheme.layers.names]
    with torch.no_grad():
        for weight, value, mask in zip(weights, dense, masks, strict=True):
            weight.copy_(value * mask)
    torch.nn.functional.cross_entropy(other(images[0]), images[1]).backward()
    for weight, value, mask, gradient in zip(weights, dense, masks, found, strict=True):
        assert weight.grad is not None
        expected = weight.grad + 2e-4 * (~mask) * value
        torch.testing.assert_close(gradient, expected)
    assert all(torch.equal(p, w) for p, w in zip(scheme.layers.parameters, dense, strict=True))


def test_sr_ste_trains_the_weights_of_the_authors_code() -> None:
    fused, sorted_ = trainer_of("nm"), trainer_of("nm-argsort")
    for step in range(3):
        fused.step(batch(step))
        sorted_.step(batch(step))
    others = sorted_.model.state_dict()
    for name, value in fused.model.state_dict().items():
        torch.testing.assert_close(value, others[name], msg=name)


def test_sr_ste_in_half_precision_trains_the_weights_left_out() -> None:
    trainer = trainer_of("nm", Conditions("cpu", "bf16"))
    before = trainer.scheme.layers.flat.clone()
    trainer.step(batch())
    mask, after = trainer.scheme.layers.mask, trainer.scheme.layers.flat
    assert (after != before)[~mask].float().mean() > 0.9
    assert after.dtype == torch.float32 and torch.isfinite(after).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["nm", "cs"])
def test_a_compiled_network_trains_and_tells_alike(name: str) -> None:
    eager, compiled = trainer_of(name), trainer_of(name, Conditions("cpu", "fp32", compile=True))
    for step in range(3):
        for trainer in (eager, compiled):
            trainer.step(batch(step), trainer.scheme.sparsity_at(step, 6))
    others = compiled.model.state_dict()
    for key, value in eager.model.state_dict().items():
        torch.testing.assert_close(value, others[key], msg=key)
    assert eager.evaluate(batch(9)) == compiled.evaluate(batch(9))


def test_the_model_has_its_own_parameters_between_steps() -> None:
    trainer = trainer_of("nm", Conditions("cpu", "bf16"))
    before = dict(trainer.model.named_parameters())
    trainer.step(batch())
    trainer.evaluate(batch())
    after = dict(trainer.model.named_parameters())
    assert before.keys() == after.keys() and all(before[k] is after[k] for k in before)


def test_cs_keeps_no_dense_weights_and_lets_others_take_their_place() -> None:
    trainer = trainer_of("cs")
    layers, sparsity = trainer.scheme.layers, trainer.scheme.sparsity
    trainer.step(batch(), sparsity)
    first = layers.mask.clone()
    assert not layers.flat[~first].any()
    trainer.set_rate(5.0)  # a large step: a left out weight outgrows a kept one
    trainer.step(batch(1))
    assert torch.equal(layers.mask, first) and not layers.flat[~first].any()
    trainer.step(batch(2), sparsity)
    assert not torch.equal(layers.mask, first)
    assert int(layers.mask.sum()) == int(first.sum())


def test_the_sparsity_of_cs_rises_group_by_group() -> None:
    trainer = trainer_of("cs", interval=1)
    shares = []
    for step in range(11):
        trainer.step(batch(step), trainer.scheme.sparsity_at(step, 20))
        shares.append(float(trainer.scheme.layers.mask.float().mean()))
    assert shares[0] == 1.0 and shares[-1] == 0.25
    assert shares == sorted(shares, reverse=True) and 0.5 in shares


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("steps", [2, 7, 1000, 4321])
def test_phases_count_the_mask_updates_of_the_schedule(name: str, steps: int) -> None:
    scheme = make(name, spec_of(PATTERNS.get(name, name)), 7)
    phases = scheme.phases(steps)
    assert sum(phase.steps for phase in phases) == steps
    due = [step for step in range(steps) if scheme.sparsity_at(step, steps) is not None]
    assert sum(phase.updates for phase in phases) == len(due)
    if name == "cs":
        densities = [phase.density for phase in phases]
        assert densities[-1] == 0.25 and densities == sorted(densities, reverse=True)


def test_dense_is_a_plain_loop() -> None:
    """The same weights to the last bit as a loop that knows nothing of schemes."""
    from csbench.training.step import plain_loop

    trainer = trainer_of("dense")
    torch.manual_seed(0)
    model = net()
    step = plain_loop(model, trainer.scheme.recipe, CPU, lambda: batch())
    for _ in range(3):
        trainer.step(batch())
        step()
    own = trainer.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_names_of_schemes() -> None:
    assert specify("nm") == ("nm", spec_of("nm:2:4").at(0.5))
    assert specify("cs-c:8") == ("cs-c", parse("cs").at(0.875))
    assert specify("cs-c@75%") == ("cs-c", parse("cs").at(0.75))
    assert specify("ovw", 0.75)[1] == parse("ovw:32").at(0.75)
    assert math.isclose(specify("block:16x16@0.9")[1].sparsity or 0, 0.9)
    with pytest.raises(UsageError, match="unknown training scheme 'mn'; did you mean nm"):
        specify("mn")
