"""Messages become the model's prompt, with its media in the order of their placeholders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from video_llava_client import PromptError, build_prompt

from .errors import from_client_error, refused
from .protocol import Message, Part

Kind = Literal["image", "video"]


@dataclass(frozen=True)
class Source:
    """A medium of a request, not decoded.

    Attributes:
        kind: What the model sees it as.
        param: Where the request has it, such as "messages[0].content[1]".
        url: Its address; None: `uuid` says which.
        uuid: What the caller calls it.
        frames: Instead: the frames of a video, in order.
    """

    kind: Kind
    param: str
    url: str | None = field(default=None, repr=False)
    uuid: str | None = None
    frames: tuple[Source, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Conversation:
    """What the model reads.

    Attributes:
        prompt: In the model's format, with one placeholder for each medium.
        images, videos: In the order of their placeholders.
    """

    prompt: str = field(repr=False)
    images: tuple[Source, ...]
    videos: tuple[Source, ...]

    @classmethod
    def of(cls, messages: Sequence[Message], *, images_as_video: bool, system: str = "") -> Conversation:
        """Return the conversation in `messages`.

        Consecutive messages of one role are one. Texts before the first question stand before `USER: `, as the
        model's original code writes its system text; without any, `system` does, the model's own.

        Raises:
            ApiError: They are no conversation; it names the message.
        """
        own_system, questions, answers = "", list[str](), list[str]()
        sources: list[Source] = []
        for index, message in enumerate(messages):
            param = f"messages[{index}]"
            own = [] if message.content is None else _sources(message.content, param, images_as_video=images_as_video)
            text = "\n".join(part.text for part in message.content or () if part.text is not None)
            if message.role == "user":
                text = _with_placeholders(text, own, param)
                sources += own
                _append(questions, text, joined=len(questions) > len(answers))
            elif own:
                raise refused(f"{param}.content", f"a message of role {message.role} has text alone")
            elif message.role == "assistant":
                if not questions:
                    raise refused(param, "an answer needs a question before it: begin with a message of role user")
                _append(answers, text, joined=len(answers) == len(questions))
            elif questions:
                raise refused(f"{param}.role", f"messages of role {message.role} come before all others")
            else:
                own_system = f"{own_system}\n{text}".strip()
        if len(questions) == len(answers):
            raise refused(f"messages[{len(messages) - 1}].role", "the last message must be one of role user")
        images, videos = (tuple(each for each in sources if each.kind == kind) for kind in ("image", "video"))
        return cls(_prompt(own_system or system, questions, answers, len(images), len(videos)), images, videos)


def _prompt(system: str, questions: list[str], answers: list[str], num_images: int, num_videos: int) -> str:
    turns = zip(questions, answers, strict=False)
    try:
        if system:
            build_prompt(system)  # refuses control tokens and placeholders
        return build_prompt(questions[-1], num_images=num_images, num_videos=num_videos, turns=turns, system=system)
    except PromptError as exc:
        raise from_client_error(exc, param="messages") from exc


def _append(texts: list[str], text: str, *, joined: bool) -> None:
    if joined:
        texts[-1] += f"\n{text}"
    else:
        texts.append(text)


def _sources(parts: Iterable[Part], param: str, *, images_as_video: bool) -> list[Source]:
    """Return the media of one message, images first."""
    sources: list[Source] = []
    for index, part in enumerate(parts):
        if part.type != "text":
            kind: Kind = "image" if part.type == "image_url" else "video"
            sources.append(Source(kind, f"{param}.content[{index}]", part.url, part.uuid))
    images = [each for each in sources if each.kind == "image"]
    videos = [each for each in sources if each.kind == "video"]
    if images_as_video and len(images) > 1:
        return [Source("video", f"{param}.content", frames=tuple(images)), *videos]
    return [*images, *videos]


def _with_placeholders(text: str, sources: Sequence[Source], param: str) -> str:
    """Return the text with placeholders before it, as the client writes them, unless it has its own."""
    if not text.strip():
        raise refused(f"{param}.content", "has no text: ask something")
    counts = {f"<{kind}>": sum(each.kind == kind for each in sources) for kind in ("image", "video")}
    if not any(placeholder in text for placeholder in counts):
        return "".join(f"{placeholder}\n" * count for placeholder, count in counts.items()) + text
    for placeholder, count in counts.items():
        if text.count(placeholder) != count:
            found = f"its text has {text.count(placeholder)} x {placeholder}, and it has {count} such media"
            raise refused(f"{param}.content", f"{found}: write one for each medium, or none")
    return text
