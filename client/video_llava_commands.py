"""The installed commands. `pip install .` installs all of them; some need an extra, and each says which."""

import sys
from functools import partial
from importlib import import_module

_BAD_INPUT = 2


def _run(name: str, place: str, *, extra: str = "") -> None:
    """Run the function at `place`, MODULE:FUNCTION; exit code 2 where packages of `extra` are missing."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        print(name, version("video-llava-triton"))  # noqa: T201
        return
    module, function = place.split(":")
    try:
        command = getattr(import_module(module), function)
    except ModuleNotFoundError as exc:
        if not extra:
            raise
        package = str(exc.name).partition(".")[0]
        print(f"{name} needs {package}: install this package with its extra [{extra}]", file=sys.stderr)  # noqa: T201
        sys.exit(_BAD_INPUT)
    command()


video_llava = partial(_run, "video-llava", "video_llava_client.cli:main")
export = partial(_run, "video-llava-export", "video_llava_export.cli:main", extra="export")
gateway = partial(_run, "video-llava-gateway", "video_llava_gateway.cli:main", extra="gateway")
load = partial(_run, "video-llava-load", "video_llava_load.cli:main", extra="loadtest")
serve = partial(_run, "video-llava-serve", "video_llava_serve.cli:main", extra="serve")
assemble = partial(_run, "video-llava-assemble", "video_llava_server.cli:assemble_command")
tritonserver = partial(_run, "video-llava-tritonserver", "video_llava_server.cli:tritonserver_command")
drain = partial(_run, "video-llava-drain", "video_llava_server.cli:drain_command")
verify_log = partial(_run, "video-llava-verify-log", "video_llava_server.cli:verify_log_command")
