"""What an explainer asks of a layer, whatever its answer is written in."""

from __future__ import annotations

from backlight.classical.layers import EncodedRows
from backlight.classical.layers import Query as LayerQuery
from backlight.models import Query

__all__ = ["layer_query"]


def layer_query(query: Query) -> LayerQuery:
    """The question to the last layer: a reference is a row, a level, or none."""
    reference = query.reference
    return LayerQuery(
        query.rules,
        None,
        reference if isinstance(reference, EncodedRows) else None,
        reference if isinstance(reference, float) else None,
    )
