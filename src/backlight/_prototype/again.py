"""The public function, for what stands below it: paths and replays make prototypes anew.

`backlight._prototype.prototype` puts it here; nothing below imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backlight._prototype.result import Prototypes

__all__ = ["make", "register"]

_known: list[Callable[..., Any]] = []


def register(function: Callable[..., Any]) -> None:
    """Say what makes prototypes."""
    _known[:] = [function]


def make(model: Any, target: Any, **options: Any) -> Prototypes:
    """Call `backlight.prototype`."""
    found: Prototypes = _known[0](model, target, **options)
    return found
