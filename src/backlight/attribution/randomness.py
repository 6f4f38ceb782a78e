"""A seed for what draws, without a trace on the user's random state."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["own_randomness"]


class own_randomness:  # noqa: N801 - a context manager, used as a function
    """A seed for what runs inside; the user's random state is put back."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng()
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
