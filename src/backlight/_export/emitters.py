"""Who writes which layer, and which module of a front end, in one language."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import nn

from backlight.classical.registry import public_name
from backlight.errors import UnsupportedModel

__all__ = ["Emitters"]

L = TypeVar("L", bound=Callable[..., Any])
M = TypeVar("M", bound=Callable[..., Any])


class Emitters(Generic[L, M]):
    """Functions by the class that they write.

    Parameters
    ----------
    language : str
        As it is said of what nobody has written: "in SQL".
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._layers: dict[str, L] = {}
        self._modules: dict[str, M] = {}

    def register(self, *classes: type) -> Callable[[L], L]:
        """Say how a layer is written."""

        def keep(function: L) -> L:
            self._layers.update(dict.fromkeys((cls.__qualname__ for cls in classes), function))
            return function

        return keep

    def elements(self, *classes: type) -> Callable[[M], M]:
        """Say how a module of a front end is written."""

        def keep(function: M) -> M:
            self._modules.update(dict.fromkeys((cls.__qualname__ for cls in classes), function))
            return function

        return keep

    def of_layer(self, layer: Any) -> L:
        """Who writes a layer, by its class or one that it is made of.

        Raises
        ------
        UnsupportedModel
        """
        for cls in type(layer).__mro__:
            if cls.__qualname__ in self._layers:
                return self._layers[cls.__qualname__]
        told = f"{type(layer).__name__} layers are not written {self.language} in this version"
        raise UnsupportedModel(f"{told}: use Explainer.save")

    def of_module(self, module: nn.Module) -> M:
        """Who writes a module of a front end.

        Raises
        ------
        UnsupportedModel
        """
        emitter = self._modules.get(type(module).__qualname__)
        if emitter is None:
            name = public_name(type(getattr(module, "step", module))).rpartition(".")[2]
            told = f"{name} is not written {self.language} in this version"
            raise UnsupportedModel(f"{told}: use Explainer.save, or another step")
        return emitter
