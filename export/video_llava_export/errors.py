"""What can go wrong in an export, as a tree with one root.

ExportError
├── CheckpointError      what was given is not a usable Video-LLaVA checkpoint, or the hub did not give it
├── OptionError          an option's value cannot be used: an id, a profile, engine arguments
├── TargetError          the directory cannot take the model: its name is taken, or the disk is full
├── ParityError          the server or the answers to compare cannot be used
└── VerificationError    what was written does not compute what the checkpoint computes

A model folder that is damaged, or of another format, raises `video_llava_server.manifest.ModelFolderError`.
"""

from collections.abc import Collection

_NUM_NAMED = 5


class ExportError(Exception):
    """Root of the tree. The text is one line: what was wrong, with which value, what to do."""


class CheckpointError(ExportError):
    """What was given is not a usable Video-LLaVA checkpoint."""


class OptionError(ExportError):
    """An option's value cannot be used."""


class TargetError(ExportError):
    """The directory cannot take the model."""


class ParityError(ExportError):
    """The server, or what was kept of its answers, cannot be compared with the reference."""


class VerificationError(ExportError):
    """A written part does not compute what the checkpoint computes."""


def name_some(names: Collection[str]) -> str:
    """The first five in order, and how many more there are."""
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(sorted(names)[:_NUM_NAMED]) + more
