"""Reads a record of Keepwell's topics `events`, `windows` and `health` with Arrow alone."""

import pyarrow
import pyarrow.compute
import pyarrow.ipc


def rows(value):
    """The rows of a record, as a table. What is the same in many rows is in a record once: run-end or dictionary encoded."""
    table = pyarrow.ipc.open_stream(value).read_all()
    for index, column in enumerate(table.columns):
        if pyarrow.types.is_run_end_encoded(column.type):
            table = table.set_column(index, table.field(index).name, pyarrow.compute.run_end_decode(column))
    return table.cast(pyarrow.schema([field.with_type(plain(field.type)) for field in table.schema]))


def plain(kind):
    """The type without dictionaries."""
    if pyarrow.types.is_dictionary(kind):
        return kind.value_type
    if pyarrow.types.is_list(kind):
        return pyarrow.list_(kind.value_field.with_type(plain(kind.value_type)))
    if pyarrow.types.is_struct(kind):
        return pyarrow.struct([field.with_type(plain(field.type)) for field in kind])
    return kind
