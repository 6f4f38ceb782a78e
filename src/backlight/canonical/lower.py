"""From a `Form` back to a PyTorch module: a `torch.fx.GraphModule` of ordinary layers under their old names."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import skip_init

from backlight.canonical.form import Affine, Form, Given, Held, Operator, Pointwise, Value, mapped
from backlight.errors import UnsupportedModel
from backlight.rules import Convolution, Dense, Elementwise, LinearMap

__all__ = ["lower"]

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORMS = {1: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}


def lower(form: Form, dtype: torch.dtype = torch.float64, title: str = "Rewritten") -> fx.GraphModule:
    """A module that computes the form, in evaluation mode.

    ``module.code`` prints it as Python; layers with weights are `torch.nn` modules that keep the names of those they
    come from.
    """
    form.refresh()
    return _Lowerer(form, dtype).module(title)


class _Lowerer:
    def __init__(self, form: Form, dtype: torch.dtype) -> None:
        self.form, self.dtype = form, dtype
        self.graph = fx.Graph()
        self.held: dict[str, Any] = {}
        self.nodes: dict[Value, fx.Node] = {}

    def module(self, title: str) -> fx.GraphModule:
        for name, given in self.form.inputs.items():
            self.nodes[given] = self.graph.placeholder(_word(name))
        for value in self.form.order():
            if not isinstance(value, Given):
                self.nodes[value] = self._node(value)
        self.graph.output(self.nodes[self.form.output])
        root = nn.Module()
        for name, item in self.held.items():
            parent, _, leaf = name.rpartition(".")
            home = _home(root, parent)
            if isinstance(item, Tensor):
                home.register_buffer(leaf, item)
            else:
                home.add_module(leaf, item)
        module = fx.GraphModule(root, self.graph, class_name=title)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return module.eval()

    def _node(self, value: Value) -> fx.Node:
        if isinstance(value, Held):
            return self._constant(value.tensor, value.name)
        if isinstance(value, Affine):
            return self._affine(value)
        if isinstance(value, Pointwise):
            return self.graph.call_function(value.target, (self.nodes[value.source], *value.args), dict(value.kwargs))
        assert isinstance(value, Operator)
        args, kwargs = mapped((value.args, value.kwargs), lambda source: self.nodes[source])
        return self.graph.call_function(value.target, self._typed(args), self._typed(kwargs))

    def _affine(self, value: Affine) -> fx.Node:
        terms, bias = sorted(value.terms, key=lambda term: isinstance(term.map, Elementwise)), value.bias
        if not terms:
            raise UnsupportedModel(f"{value.name!r} is constant: the network's output does not depend on its inputs")
        total: fx.Node | None = None
        for term in terms:
            source = self.nodes[term.source]
            if isinstance(term.map, Elementwise):
                part, bias, negative = self._scaled(value, source, term.map, bias if len(terms) == 1 else None, bias)
                if total is not None:
                    sign = torch.ops.aten.sub.Tensor if negative else torch.ops.aten.add.Tensor
                    total = self.graph.call_function(sign, (total, part))
                    continue
                if negative:
                    part = self.graph.call_function(torch.ops.aten.neg.default, (part,))
            else:
                layer, bias = self._layer(term.map, bias, value)
                part = self.graph.call_module(self._keep(layer, term.name or value.name), (source,))
            total = part if total is None else self.graph.call_function(torch.ops.aten.add.Tensor, (total, part))
        assert total is not None
        if bias is not None:
            total = self.graph.call_function(
                torch.ops.aten.add.Tensor, (total, self._constant(bias, value.name + "_bias"))
            )
        return total

    def _scaled(
        self, value: Affine, source: fx.Node, scale: LinearMap, own: Tensor | None, bias: Tensor | None
    ) -> tuple[fx.Node, Tensor | None, bool]:
        """Scale · x, what is left of the bias, and whether it is still to be negated."""
        weight = scale.weight
        if value.op == "batch_norm" and own is not None and len(value.shape) in _NORMS:
            return (
                self.graph.call_module(self._keep(self._norm(value, weight, own), value.name), (source,)),
                None,
                False,
            )
        if weight.numel() == 1 and float(weight.abs()) == 1.0:
            return source, bias, bool(weight < 0)
        factor = self._constant(weight, value.name + "_scale")
        return self.graph.call_function(torch.ops.aten.mul.Tensor, (source, factor)), bias, False

    def _norm(self, value: Affine, weight: Tensor, bias: Tensor) -> nn.Module:
        channels = value.shape[0]
        layer = _NORMS[len(value.shape)](channels, eps=0.0, dtype=self.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight.expand(1, channels, *(1,) * (len(value.shape) - 1)).flatten())
            layer.bias.copy_(bias.expand(1, channels, *(1,) * (len(value.shape) - 1)).flatten())
        return layer

    def _layer(self, linear: LinearMap, bias: Tensor | None, value: Affine) -> tuple[nn.Module, Tensor | None]:
        """The layer, with the bias in it where it is one number a channel."""
        channels = linear.channels
        axis = -1 if isinstance(linear, Dense) else 0
        flat = None if bias is None else _by_channel(bias, value.shape, axis)
        weight = linear.weight
        layer: Any
        # without numbers drawn at random: the random state is the user's
        if isinstance(linear, Dense):
            layer = skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=flat is not None, dtype=self.dtype)
        else:
            assert isinstance(linear, Convolution)
            inside = weight.shape[0] if linear.transposed else weight.shape[1] * linear.groups
            options: dict[str, Any] = {
                "kernel_size": tuple(weight.shape[2:]), "stride": linear.stride, "padding": linear.padding,
                "dilation": linear.dilation, "groups": linear.groups, "bias": flat is not None, "dtype": self.dtype,
            }  # fmt: skip
            kind = _TRANSPOSED[linear.spatial] if linear.transposed else _CONVOLUTIONS[linear.spatial]
            if linear.transposed:
                options["output_padding"] = linear.output_padding
            layer = skip_init(kind, inside, channels, **options)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if flat is not None:
                layer.bias.copy_(flat)
        return layer, None if flat is not None else bias

    def _typed(self, tree: Any) -> Any:
        """Arguments in the precision of the module."""
        if isinstance(tree, tuple | list):
            return type(tree)([self._typed(item) for item in tree])
        if isinstance(tree, dict):
            return {key: self._typed(item) for key, item in tree.items()}
        return self.dtype if tree is torch.float64 else tree

    def _constant(self, tensor: Any, name: str) -> fx.Node:
        tensor = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return self.graph.get_attr(self._keep(tensor.detach().clone(), name))

    def _keep(self, item: Any, name: str) -> str:
        words = [_word(part) for part in re.split(r"[.@]", name) if part] or ["layer"]
        taken = self.held
        stem = ".".join(words)
        if any(stem.startswith(other + ".") for other in taken):
            # that one is a layer, and cannot hold others
            stem = "_".join(words)
        count, found = 0, stem
        while found in taken or any(other.startswith(found + ".") for other in taken):
            count += 1
            found = f"{stem}_{count}"
        taken[found] = item
        return found


def _by_channel(bias: Tensor, shape: tuple[int, ...], axis: int) -> Tensor | None:
    """A bias as one number a channel, or ``None`` where it differs from place to place."""
    full = bias.expand(1, *shape)[0]
    places = full.movedim(axis, 0).reshape(shape[axis], -1)
    return places[:, 0].clone() if bool((places == places[:, :1]).all()) else None


def _home(root: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def _word(name: str) -> str:
    word = re.sub(r"\W", "_", name)
    return word if word else "_"
