"""Tables of every kind in, the same kind out.

``frame``         any table in memory (NumPy, pandas, polars, pyarrow, scipy sparse, torch) as one `Frame`
``batches``       rows of any kind in batches: of a table, of tensors, of a stream
``files``         files as one `Frame`, and atomic writing
``readers``       one file for each kind of file: CSV, spreadsheets, JSON, Parquet, Arrow
``columns``       what a column is: number, category, date, identifier, constant
``numbers``, ``dates``, ``placeholders``   what cells mean, decided for a whole column

Imports only `backlight.errors`. A new kind of table is a branch of `as_frame`; a new file format a file in `readers`.
"""

from backlight.tables.batches import in_batches, is_stream
from backlight.tables.frame import Frame, as_frame, frame_like

__all__ = ["Frame", "as_frame", "frame_like", "in_batches", "is_stream"]
