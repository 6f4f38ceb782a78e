"""Tables larger than memory: explained batch by batch, streamed as Arrow or written as shards of Parquet.

``sources``       rows that are read in batches: of a stream of Arrow, of frames in turn
``parquet``, ``delimited``, ``files``   files; those of Parquet can be entered anywhere
``opening``       from anything to a source, one function a class, registered by its name
``layout``        the columns that come out, known before the first row is read
``fingerprint``   what an explainer and its rows are, as a digest
``shards``        a folder of shards, each whole or not there, and the run that goes on where it was killed
``explain``       `explain_batches`
``sums``          `sum_batches`: questions to all rows, from sums
``carriers``      what goes through each training row, one function a layer

Imports `backlight.Explainer` and what is below it. No scheduler: an engine that people run already calls the explainer.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backlight.batches.explain import explain_batches
    from backlight.batches.shards import Written
    from backlight.batches.sums import ContributionSums, sum_batches

__all__ = ["ContributionSums", "Written", "explain_batches", "sum_batches"]


def __getattr__(name: str) -> Any:
    # what reads and writes alone loads no torch
    if name == "explain_batches":
        from backlight.batches.explain import explain_batches

        return explain_batches
    if name in ("ContributionSums", "sum_batches"):
        from backlight.batches import sums

        return getattr(sums, name)
    if name == "Written":
        from backlight.batches.shards import Written

        return Written
    raise AttributeError(f"module 'backlight.batches' has no attribute {name!r}")
