"""How the media of one request are decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .conventions import Conventions
from .deadline import Deadline
from .limits import MediaLimits
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .workers.pool import DecoderProcesses


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the media of one request are decoded.

    Attributes:
        limits: What one of them may be and cost.
        deadline: Of the request; None: open.
        decoders: Processes in which files are decoded; None: in this one.
        conventions: Of the model.
        stopwatch: Gets the seconds that it took.
    """

    limits: MediaLimits = field(default_factory=MediaLimits)
    deadline: Deadline | None = None
    decoders: DecoderProcesses | None = None
    conventions: Conventions = field(default_factory=Conventions)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
