"""Files of every kind as typed columns: one file here for each kind, registered by `reader`.

A reader takes a `Source` (what is in the file, unpacked and whole) and returns a `Table`: names, typed columns, and in
sentences what it had to decide. What its parser raises is dressed at one boundary, `read_table`, as one sentence.

The kind of a file is decided by its first bytes where they tell, then by the ending of its name, then by its text.
Libraries that only one kind needs are imported when it is met. To add a kind: a file here with ``@reader(...)``, and
its name in the imports below.
"""

from backlight.tables.readers import arrays, arrow, attributes, delimited, parquet, records, sparse_text, spreadsheet
from backlight.tables.readers.registry import Options, Table, endings, read_table, reader

__all__ = ["Options", "Table", "endings", "read_table", "reader"]

_KINDS = (arrays, arrow, attributes, delimited, parquet, records, sparse_text, spreadsheet)
