"""Which columns of a data set make a question."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, PromptError, VideoLlavaError
from ..sources import scheme_of
from .lines import FIELDS, check_fields

if TYPE_CHECKING:
    from .storage import Address

VIDEOS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "flv", "wmv", "ogv", "gif")
IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "avif", "heic")
KEY, ERROR = "__key__", "__error__"  # of readers: a sample's key, and what is wrong with a row
_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
_TEXTS = ("question", "prompt")


@dataclass(frozen=True)
class DataRow:
    """A row of a data set; see `rows.Row`."""

    number: int
    digest: str
    copied: Mapping[str, Any]
    num_bytes: int
    options: Mapping[str, Any] = field(repr=False)
    error: VideoLlavaError | None = None
    is_terminated: bool = True

    @property
    def index(self) -> int:
        """Its place from 0."""
        return self.number - 1

    def parse(self) -> dict[str, Any]:
        """Return the arguments of `ask`, or raise what is wrong with the row."""
        if self.error is not None:
            raise self.error
        return dict(self.options)


@dataclass(frozen=True)
class Columns:
    """How columns are read. Those named like arguments of `ask` are its arguments; others are left out.

    Attributes:
        question: Asked of every row.
        question_column: Has the question; None: `question`, or `txt` of a tar.
        video_column: Has a video: bytes, an address or `{"bytes": …, "path": …}`, or a list of such; None: `video`.
        image_column: The same for images; None: `images`, `image`.
        id_column: Its values tell rows apart; None: `id`, a tar's name and the key of the sample, or the content.
        keep: Copied into the record.

    Raises:
        OptionError: Two of these exclude each other.
    """

    question: str | None = None
    question_column: str | None = None
    video_column: str | None = None
    image_column: str | None = None
    id_column: str | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.question is not None and self.question_column is not None:
            raise OptionError("--question and --question-column exclude each other: give one of them")
        if taken := sorted({"id", "file", "row", "text", "error", "attempts", "retry"} & set(self.keep)):
            raise OptionError(f"--keep {taken[0]}: the records have a column of this name: rename yours")

    @property
    def options(self) -> dict[str, str]:
        """Those that decide about the questions."""
        return {name: value for name, value in vars(self).items() if name != "keep" and value is not None}

    @property
    def named(self) -> tuple[str, ...]:
        """Columns that an option names."""
        given = (self.question_column, self.video_column, self.image_column, self.id_column, *self.keep)
        return tuple(name for name in given if name is not None)

    def needed(self, names: Sequence[str], *, source: str) -> list[str]:
        """Return which of a file's columns are read. Raises OptionError if one that an option names is not there."""
        if missing := [name for name in self.named if name not in names]:
            raise OptionError(f"{source} has no column {missing[0]!r}: it has {', '.join(names)}"[:500])
        return [name for name in names if name in (*self.named, *FIELDS, "image", "file_name")]

    def row(self, values: Mapping[str, Any], number: int, place: Mapping[str, Any], folder: Address) -> DataRow:
        """Return the row of these values.

        Args:
            values: By column.
            number: See `rows.Row`.
            place: `file` and `row`, for the record.
            folder: What relative addresses in it start from.
        """
        options: dict[str, Any] = {}
        error = values.get(ERROR)
        try:
            if error is None:
                options = self._options(values, folder)
        except VideoLlavaError as exc:
            error = exc
        given = values.get(self.id_column or "id")
        if given is not None:
            key = str(given)
        elif self.id_column is None and KEY in values:
            key = f"{place['file']}/{values[KEY]}"
        elif options and self.id_column is None:
            key = _content_digest(options)
        else:
            key = f"{place['file']}:{place['row']}"
            error = error or PromptError(f"{key} has no {self.id_column or 'id'}")
        kept = {name: _plain(values.get(name)) for name in self.keep}
        num_bytes = sum(len(part) for part in _parts(list(options.values())) if isinstance(part, bytes))
        return DataRow(number, digest_of(key), {"id": key, **place, **kept}, num_bytes, options, error)

    def _options(self, values: Mapping[str, Any], folder: Address) -> dict[str, Any]:
        options = {name: values[name] for name in FIELDS if name != "id" and values.get(name) is not None}
        if self.question is not None:
            options |= {"question": self.question}
        elif self.question_column is not None or not any(name in options for name in _TEXTS):
            options["question"] = values.get(self.question_column or "txt")
        if self.question is not None or self.question_column is not None:
            options.pop("prompt", None)
        if options.get("question", "") is None:
            raise PromptError("there is no question: give --question TEXT or --question-column NAME")
        check_fields({name: value for name, value in options.items() if name not in ("video", "images")}, "row")
        for name, value in self._media(values).items():
            options.pop(name, None)
            if value is not None and value != []:
                options[name] = _resolved(value, folder)
        return options

    def _media(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return `video` and `images`; a file name of a folder of media is one of them by its ending."""
        name = str(values.get("file_name") or "")
        suffix = name.rpartition(".")[2].lower()
        images = values.get("images") if values.get("images") is not None else values.get("image")
        media = {
            "video": values.get("video", name if suffix in VIDEOS else None),
            "images": images if images is not None else name if suffix in IMAGES else None,
        }
        if self.video_column is not None:
            media = {"video": values.get(self.video_column), "images": None}
        if self.image_column is not None:
            media["images"] = values.get(self.image_column)
            if self.video_column is None:
                media["video"] = None
        return media


def digest_of(key: str) -> str:
    """Return 32 hexadecimal digits for a row's id."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _resolved(value: Any, folder: Address) -> Any:
    """Return a medium, or each of a list, as the client takes it."""
    if isinstance(value, list):
        return [_resolved(each, folder) for each in value]
    if isinstance(value, Mapping) and value.get("bytes") is None:
        return _resolved(value.get("path"), folder)
    if not isinstance(value, str):
        if isinstance(value, bytes | Mapping):
            return value
        raise PromptError(f"a medium must be bytes, an address or a struct of bytes and path, got {value!r:.80}")
    from .storage import Address

    scheme = scheme_of(value)
    if scheme in _STORES:
        return Address.of(value).open()
    if scheme:  # the client reads it, or says why not
        return value
    if folder.system.type_name == "local":
        return value if value.startswith("/") else (folder / value).path
    return (folder / value.lstrip("/")).open()


def _content_digest(options: Mapping[str, Any]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in _parts(sorted(options.items())):
        data = part if isinstance(part, bytes) else repr(part).encode()
        found.update(b"%d:" % len(data))
        found.update(data)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    """Yield all that is in a value: bytes, and all else by its text."""
    if isinstance(value, Mapping):
        # A row of Hugging Face's: its bytes are the file, whatever its name was.
        yield from _parts(value["bytes"] if "bytes" in value else sorted(value.items()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _parts(each)
    else:
        yield getattr(value, "name", value)  # a file at an address


def _plain(value: Any) -> Any:
    """Return the value as a record can have it."""
    if isinstance(value, bytes | memoryview):
        raise OptionError("--keep takes no columns of bytes: keep their address")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
