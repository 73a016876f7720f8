"""What can go wrong in an export, as a tree with one root.

ExportError
├── CheckpointError            what was given is not a usable Video-LLaVA checkpoint
│   ├── NotVideoLlavaError     it is another model
│   ├── MissingFilesError      files, shards or tensors are not there
│   ├── PickledWeightsError    the weights are in a format that runs code when read
│   ├── ConfigError            config.json or the preprocessor asks for something the export cannot do
│   └── TokenizerError         the tokenizer and the config disagree
├── DownloadError              the hub did not give the checkpoint
├── OptionError                an option's value cannot be used
│   └── ProfileError           the hardware cannot hold the model, or is no hardware
├── TargetError                the folder cannot take the model: its name is taken, or the disk is full
├── ParityError                the server or the answers to compare cannot be used
└── VerificationError          what was written does not compute what the checkpoint computes

A model folder that is damaged, or of another format, raises `video_llava_server.manifest.ModelFolderError`.
"""


class ExportError(Exception):
    """Root of the tree. The text is one line: what was wrong, with which value, what to do."""


class CheckpointError(ExportError):
    """What was given is not a usable Video-LLaVA checkpoint."""


class NotVideoLlavaError(CheckpointError):
    """The checkpoint is of another model."""


class MissingFilesError(CheckpointError):
    """Files, shards or tensors of the checkpoint are missing or damaged."""


class PickledWeightsError(CheckpointError):
    """The weights are pickled; reading them would run whatever code they carry."""


class ConfigError(CheckpointError):
    """`config.json` or the preprocessor's file lacks a value, or holds one that is not supported."""


class TokenizerError(CheckpointError):
    """The tokenizer lacks a placeholder, or gives it another id than the config."""


class DownloadError(ExportError):
    """The hub did not give the checkpoint."""


class OptionError(ExportError):
    """An option's value cannot be used."""


class ProfileError(OptionError):
    """The hardware cannot hold the model, or its name says nothing."""


class TargetError(ExportError):
    """The folder cannot take the model."""


class ParityError(ExportError):
    """The server, or what was kept of its answers, cannot be compared with the reference."""


class VerificationError(ExportError):
    """A written part does not compute what the checkpoint computes."""
