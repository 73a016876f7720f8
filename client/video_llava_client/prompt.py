"""The prompt in Video-LLaVA's format.

`USER: <video>\\nQUESTION ASSISTANT:`, and for a further turn ` ANSWER</s>USER: QUESTION ASSISTANT:` after it.
One placeholder per medium, in the first turn only.
"""

from collections.abc import Iterable

from .errors import PromptError

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
_TURN_END = "</s>"
_SPECIAL_TOKENS = ("<s>", _TURN_END)


def build_prompt(
    question: str,
    *,
    num_images: int = 0,
    num_videos: int = 0,
    turns: Iterable[tuple[str, str]] = (),
    system: str = "",
) -> str:
    """Return the whole prompt for `question`, asked after the (question, answer) pairs of `turns`.

    `system`, if there is one, stands before the first turn, with a blank between.

    Placeholders are added before the first question, images first, unless the questions contain some; then their
    number must be that of the media.

    Raises:
        PromptError: A question is empty, a text contains `<s>` or `</s>`, or placeholders and media differ in number.
    """
    answered = tuple(turns)
    questions = [*(asked for asked, _ in answered), question]
    answers = [answer for _, answer in answered]
    for text in questions:
        _check_question(text)
    for text in answers:
        _check_no_special_tokens(text)
    if not any(map(_has_placeholder, questions)):
        questions[0] = _placeholders(num_images, num_videos) + questions[0]
    prompt = f"{system} " if system else ""
    prompt += "".join(f"USER: {q} ASSISTANT: {a}{_TURN_END}" for q, a in zip(questions, answers, strict=False))
    prompt += f"USER: {questions[-1]} ASSISTANT:"
    check_prompt(prompt, num_images=num_images, num_videos=num_videos)
    return prompt


def check_prompt(prompt: str, *, num_images: int, num_videos: int) -> None:
    """Raise PromptError unless `prompt` has one placeholder for each medium."""
    for placeholder, expected in ((IMAGE_PLACEHOLDER, num_images), (VIDEO_PLACEHOLDER, num_videos)):
        found = prompt.count(placeholder)
        if found != expected:
            raise PromptError(
                f"the prompt has {found} x {placeholder}, but {expected} such media were given: "
                f"write one {placeholder} for each, or none to have them added to the question"
            )


def _placeholders(num_images: int, num_videos: int) -> str:
    return f"{IMAGE_PLACEHOLDER}\n" * num_images + f"{VIDEO_PLACEHOLDER}\n" * num_videos


def _has_placeholder(text: str) -> bool:
    return IMAGE_PLACEHOLDER in text or VIDEO_PLACEHOLDER in text


def _check_question(question: str) -> None:
    if not question.strip():
        raise PromptError("the question is empty")
    _check_no_special_tokens(question)


def _check_no_special_tokens(text: str) -> None:
    # The tokenizer reads these as control tokens inside a text too: a question could end its own turn.
    for token in _SPECIAL_TOKENS:
        if token in text:
            raise PromptError(f"{text!r} contains the model's control token {token!r}: remove it, or use prompt=")
