"""What can go wrong, as one tree.

ServeError
├── OptionError         an option has an impossible value
├── RepositoryError     the folder holds no exported model, or a damaged one
├── PortError           a port is taken
├── InstallationError   a part of the server is not installed
├── StartError          a model does not load, or not in time
│   └── CrashError      the server crashed, or hangs, while its models loaded
└── ServerDiedError     the server ended by itself
"""


class ServeError(Exception):
    """Root of this package's errors; its text says what happened and what to do."""


class OptionError(ServeError):
    """An option has a value that cannot work."""


class RepositoryError(ServeError):
    """The model folder is missing, incomplete or of another format."""


class PortError(ServeError):
    """A port cannot be bound."""


class InstallationError(ServeError):
    """A part that the local server needs is not installed."""


class StartError(ServeError):
    """The server did not become ready; everything it had started is stopped."""


class CrashError(StartError):
    """The server crashed, or hangs, while its models loaded: another start may succeed."""


class ServerDiedError(ServeError):
    """The server was ready and then ended without being asked to."""
