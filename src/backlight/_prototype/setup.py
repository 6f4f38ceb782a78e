"""What `backlight.prototype` was called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Setup"]


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """What `backlight.prototype` was called with."""

    model: Any
    target: Any = None
    prior: Any = None
    data: Any = None
    strength: float = 1.0
    space: Any = None
    bounds: Any = None
    constraints: tuple[Any, ...] = ()
    init: Any = "top"
    restarts: int = 8
    optimizer: str = "auto"
    exact: str = "prefer"
    seed: int = 0
    steps: int | None = None
    count: int = 1
    apart: float | None = None
