"""`Explanation`: relevance with its names, its sum and its origin. What every method returns.

``data``      what it holds: immutable, sliceable, NumPy inside
``core``      the result itself: what it holds, with its plots, files and faces
``attribution``  what a model says of one batch, and batches put together
``ledger``    what each layer received, passed on and kept
``score_units``  what a score is counted in, for people
``storage``   Parquet and safetensors files, never pickle
``versions``  what the numbers were computed with
``plots``     ``ex.plot``, with matplotlib
``display``   the dozen lines of ``repr`` and the bars of a notebook

Imports only ``errors`` and ``tables``.
"""

from backlight.explanation.attribution import Attribution
from backlight.explanation.core import Explanation
from backlight.explanation.ledger import Ledger

__all__ = ["Attribution", "Explanation", "Ledger"]
