"""Many questions from a file or a data set, each answered once into a file or a folder of parts.

Three parts, which know each other by `rows.Row` and `rows.Sink` only:

1. A reader is an iterator of rows, in a thread of its own (`read_ahead`): `lines.read_lines` for a file of JSON lines,
   `dataset` for Parquet, tars and folders. It holds the media of a row or two, not more.
2. The runner asks `sink.knows(row)` once for each row, drops those that are known, and asks the server for the others
   with the arguments that `row.parse()` returns. A row that cannot be parsed or answered gets a record with its error.
   Drop the row as soon as its record is written: `row.num_bytes` of media go with it.
3. A sink takes `write(row, record)`, once for each row that it did not know: `OutputFile` (one file), `OutputStream`
   (a pipe), `parts.Parts` (a folder at any address). A record is what the runner found out: `text` and numbers, or
   `error` with `type` and `message`, and `"retry": True` where the next run is to ask again. The sink adds
   `row.copied` and what it needs itself. `finish()` ends a run that was not stopped (`Stop`).

The runner adds what each row took to a `report.Report`.
"""

from .lines import Line, kept_options, read_lines
from .output_file import OutputFile
from .output_stream import OutputStream
from .rows import Row, Sink
from .runner import Counts, run
from .stop import Stop

__all__ = ["Counts", "Line", "OutputFile", "OutputStream", "Row", "Sink", "Stop", "kept_options", "read_lines", "run"]
