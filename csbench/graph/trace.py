"""From a torch module to a program, by torch.fx."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn

from csbench.errors import ModelError
from csbench.graph import reference
from csbench.graph.emit import Emitter
from csbench.graph.fuse import fuse
from csbench.graph.inplace import functionalise
from csbench.graph.program import Conv, Program
from csbench.graph.read import Reader

BATCH = 2  # of the shape propagation; programs run at any batch
AGREEMENT = 1e-3  # float32 program against float32 model; a misread graph is off by far more


def trace(model: nn.Module, input_size: tuple[int, int, int], model_name: str) -> Program:
    """The network as fused convolutions and torch steps, for images of (C, H, W).

    Batch norms are folded in float64 and rounded once to float32. The program is run against the
    model once, so that no misread network is ever timed. Raises ModelError, naming the operation,
    for what cannot be traced.
    """
    program = rounded(exact(model, input_size, model_name))
    _agree(program, model)
    return program


def exact(model: nn.Module, input_size: tuple[int, int, int], model_name: str) -> Program:
    """The program with its weights still in float64."""
    training = model.training
    model.eval()
    try:
        graph = _symbolic(model, model_name)
        modules = dict(model.named_modules())
        functionalise(graph, modules)
        _drop_unread(graph)
        _propagate(model, graph, input_size, model_name)
        return _program(graph, Reader(modules, _constants(model, graph)), input_size, model_name)
    finally:
        model.train(training)


def rounded(program: Program) -> Program:
    """The program with float32 weights, contiguous."""
    steps = tuple(
        dataclasses.replace(
            step,
            op=dataclasses.replace(
                op, weight=op.weight.float().contiguous(), bias=op.bias.float().contiguous()
            ),
        )
        if isinstance(op := step.op, Conv)
        else step
        for step in program.steps
    )
    return dataclasses.replace(program, steps=steps)


def _symbolic(model: nn.Module, name: str) -> fx.Graph:
    """The graph of forward(image); other arguments take their defaults."""
    arguments = list(inspect.signature(model.forward).parameters.values())
    defaults = {a.name: a.default for a in arguments[1:] if a.default is not a.empty}
    try:
        graph = fx.Tracer().trace(model, concrete_args=defaults)
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model '{name}' cannot be traced: {line}; forward must not branch on tensors "
            "(give a FILE.py:factory whose forward does not)"
        ) from error
    images = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    if len(images) != 1:
        raise ModelError(f"model '{name}' reads {len(images)} inputs; expected one batch of images")
    return graph


class _Shapes(fx.Interpreter):
    """Runs the graph on the meta device, which computes shapes and nothing else."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            line = str(error).strip().splitlines()[0]
            raise ModelError(f"operation '{n.target}' ({n.name}) fails: {line}") from error
        n.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else None
        return result

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
        return torch.func.functional_call(module, on_meta, args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = super().get_attr(target, args, kwargs)
        return found.to("meta") if isinstance(found, Tensor) else found


def _propagate(model: nn.Module, graph: fx.Graph, size: tuple[int, int, int], name: str) -> None:
    """Write each tensor's shape into its node's meta."""
    image = torch.empty(BATCH, *size, device="meta", dtype=next(model.parameters()).dtype)
    try:
        with torch.no_grad():
            _Shapes(model, graph=graph, garbage_collect_values=True).run(image)
    except ModelError as error:
        shape = "x".join(str(n) for n in size)
        raise ModelError(f"model '{name}' on {shape} images: {error}") from error.__cause__


def _drop_unread(graph: fx.Graph) -> None:
    """Every operation is pure by now, so what nobody reads (assertions too) does nothing."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)


def _constants(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, Tensor]:
    """Tensors computed from parameters alone (a standardised weight), in float64."""
    found: dict[fx.Node, Any] = {}

    def known(node: fx.Node) -> Any:
        return found[node]

    for node in graph.nodes:
        if node.op == "get_attr":
            value = model
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, Tensor):
                value = value.detach()
                found[node] = value.double() if value.is_floating_point() else value
        elif node.all_input_nodes and all(n in found for n in node.all_input_nodes):
            arguments: Any = fx.node.map_arg(node.args, known)
            options: Any = fx.node.map_arg(node.kwargs, known)
            if node.op == "call_method":
                found[node] = getattr(arguments[0], str(node.target))(*arguments[1:], **options)
            elif callable(node.target):
                found[node] = node.target(*arguments, **options)
    return {node: value for node, value in found.items() if isinstance(value, Tensor)}


def _program(graph: fx.Graph, reader: Reader, size: tuple[int, int, int], name: str) -> Program:
    for node in list(graph.nodes):
        if (source := reader.identity(node)) is not None:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    fused = fuse(graph.nodes, reader)
    inside = {node for layer in fused.values() for node in layer.nodes}
    image = next(n for n in graph.nodes if n.op == "placeholder" and n.users)
    emitter = Emitter(reader, image, BATCH)
    for node in graph.nodes:
        if node in fused:
            emitter.convolution(fused[node])
        elif node.op == "output":
            result = node.args[0]
        elif node.op == "placeholder" or node in inside or node in reader.constants:
            continue
        elif (source := reader.flattened(node)) is not None:
            emitter.flattened(source, node)
        elif node.meta["shape"] is not None:
            emitter.operation(node)
    if not isinstance(result, fx.Node) or result.meta["shape"] is None:
        kind = type(result).__name__
        raise ModelError(f"model '{name}' returns a {kind}; expected one tensor: wrap it")
    number = emitter.value(result)
    return Program(name, size, tuple(emitter.steps), number)


def _agree(program: Program, model: nn.Module) -> None:
    """Refuse a program that does not compute what the model does (on one random image)."""
    generator = torch.Generator().manual_seed(0)
    weight = next(model.parameters())
    image = torch.randn(1, *program.input_size, generator=generator)
    training = model.training
    with torch.no_grad():
        expected = model.eval()(image.to(weight))
        got = reference.run(program, image, torch.float32)
    model.train(training)
    error = reference.relative_error(got, expected)
    if torch.isfinite(expected).all() and not error < AGREEMENT:
        raise ModelError(
            f"model '{program.model}' cannot be traced: the traced network differs from it by "
            f"{error:.1e}; its forward probably writes to a view or draws random numbers"
        )
