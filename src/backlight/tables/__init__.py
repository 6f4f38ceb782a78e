"""Tables of every kind in, the same kind out.

``frame``    any table in memory (NumPy, pandas, polars, pyarrow, scipy sparse, torch) as one `Frame`
``files``    CSV, Parquet and Arrow files as one `Frame`, and atomic writing
``columns``  what a column is: number, category, date, identifier, constant

Imports only `backlight.errors`. A new kind of table is a branch of `read_frame`; a new file format an entry
of `files.READERS`.
"""

from backlight.tables.frame import Frame, as_frame, frame_like

__all__ = ["Frame", "as_frame", "frame_like"]
