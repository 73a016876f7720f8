"""Many questions from a file of JSON lines, answered into another one, once each."""

from .journal import Journal, Printer
from .lines import Line, read_lines
from .runner import Tally, run

__all__ = ["Journal", "Line", "Printer", "Tally", "read_lines", "run"]
