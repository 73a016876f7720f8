"""What readers yield and sinks keep; the package's docstring says who calls what."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

Record = Mapping[str, Any]


class Row(Protocol):
    """One question of the input: a line of JSON, or a row of a data set."""

    @property
    def number(self) -> int:
        """Its place among all that its reader reads, from 1; for lines empty ones count."""
        ...

    @property
    def index(self) -> int:
        """Its place among those that its reader yields, from 0."""
        ...

    @property
    def digest(self) -> str:
        """Hexadecimal digits that say which question this is."""
        ...

    @property
    def copied(self) -> Record:
        """What its record takes from it, answered or not."""
        ...

    @property
    def is_terminated(self) -> bool:
        """Whether it was read whole; the error of one that was not is retried by the next run."""
        ...

    @property
    def num_bytes(self) -> int:
        """The size of what it holds in memory."""
        ...

    def parse(self) -> dict[str, Any]:
        """Return the arguments of `ask`, and `id` if it has one that is not in `copied`.

        Videos and images are what the client takes: paths, addresses, bytes or file objects that open when read.

        Raises:
            VideoLlavaError: It is no question. It gets a record with this error.
        """
        ...


class Sink(Protocol):
    """Where records go; used in a `with` block, whose end keeps what was written.

    The runner calls `knows` once for each row, in the reader's thread, and `write` in the event loop's.
    """

    @property
    def num_known(self) -> int:
        """Rows that had a record before."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def knows(self, row: Any, /) -> bool:
        """Whether the row is not to be asked: it has a record, or an equal row came before."""
        ...

    def write(self, row: Any, record: Record, /) -> None:
        """Take the record of a row. Raises OSError where it cannot be written."""
        ...

    def finish(self) -> None:
        """Keep all records, on the disk or as objects. Raises OSError where that fails."""
        ...
