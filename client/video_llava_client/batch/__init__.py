"""Many questions from a file of JSON lines, each answered once into another file."""

from .lines import Line, read_lines
from .output_file import OutputFile
from .output_stream import OutputStream
from .runner import Counts, run

__all__ = ["Counts", "Line", "OutputFile", "OutputStream", "read_lines", "run"]
