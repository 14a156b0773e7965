"""Reads a record of Keepwell's topics `events`, `windows` and `health` with Arrow alone."""

import pyarrow
import pyarrow.compute
import pyarrow.ipc


def rows(value):
    """The rows of a record, as a table. A column with one value in every row is run-end encoded in the record."""
    table = pyarrow.ipc.open_stream(value).read_all()
    for index, column in enumerate(table.columns):
        if pyarrow.types.is_run_end_encoded(column.type):
            table = table.set_column(index, table.field(index).name, pyarrow.compute.run_end_decode(column))
    return table
