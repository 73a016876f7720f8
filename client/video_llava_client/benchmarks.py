"""The question files of video benchmarks, and predictions as the scripts that score them read them.

MSVD-QA, MSRVTT-QA, TGIF-QA and ActivityNet-QA are `test_q.json` and `test_a.json`, as Video-LLaVA and Video-ChatGPT
publish them; the generative benchmark of Video-ChatGPT is `generic_qa.json`, `temporal_qa.json` and
`consistency_qa.json`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .errors import OptionError
from .prompt import build_prompt

# Before each question of the original's evaluation, as in its training.
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_PREFIXES = ("", "v_")  # ActivityNet-QA names its videos without their "v_"
_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
# Which field has the prediction for each field that has a question.
_SHORT = {"question": "pred"}
_GENERAL = {"Q": "pred"}
_CONSISTENCY = {"Q1": "pred1", "Q2": "pred2"}


@dataclass(frozen=True)
class Benchmark:
    """The questions of a benchmark, and their answers.

    Attributes:
        samples: Objects of its files; one has two questions if it is about consistency.
        predictions_by_question: Which field has the prediction for each field that has a question.
    """

    samples: Sequence[Mapping[str, Any]] = field(repr=False)
    predictions_by_question: Mapping[str, str]

    @classmethod
    def read(cls, questions: Path, answers: Path | None = None) -> Self:
        """Read one file, or two whose entries belong together by their places, as in the original.

        Raises:
            OptionError: A file cannot be read, or is not one of a benchmark.
        """
        samples = _read_list(questions)
        if answers is not None:
            samples = _joined(samples, _read_list(answers), f"{questions} and {answers}")
        forms = [form for form in (_SHORT, _GENERAL, _CONSISTENCY) if samples and form.keys() <= samples[0].keys()]
        if not forms:
            raise OptionError(f"{questions}: the first entry must have 'question', 'Q', or 'Q1' and 'Q2'")
        benchmark = cls(samples, forms[0])
        for number, sample in enumerate(samples, start=1):
            benchmark._check(sample, f"{questions}, entry {number}")
        return benchmark

    @property
    def has_short_answers(self) -> bool:
        """Whether an answer is a word or two, and not a sentence."""
        return self.predictions_by_question == _SHORT

    def lines(self, videos: Path, system: str = SYSTEM) -> Iterator[dict[str, Any]]:
        """Yield each question as a line of a batch. A video that is not there has the path without a suffix."""
        for sample in self.samples:
            video = _find(videos, sample["video_name"])
            for name in self.predictions_by_question:
                prompt = f"{system} {build_prompt(sample[name], num_videos=1)}".lstrip()
                yield {"id": sample.get("question_id", sample["video_name"]), "prompt": prompt, "video": str(video)}

    def predictions(self, texts: Mapping[int, str], *, as_lines: bool) -> list[dict[str, Any]]:
        """Return what the scoring scripts read: as the original, without the samples that lack an answer.

        Args:
            texts: The answers to `lines`, by their number from 1.
            as_lines: For Video-LLaVA's script, which reads other fields of short answers than Video-ChatGPT's.
        """
        predictions, number = [], 0
        for sample in self.samples:
            answered = {}
            for name in self.predictions_by_question.values():
                number += 1
                if number in texts:
                    answered[name] = texts[number].strip()
            if len(answered) == len(self.predictions_by_question):
                predictions.append({**self._scored_fields(sample, as_lines), **answered})
        return predictions

    def _check(self, sample: Mapping[str, Any], where: str) -> None:
        for name in ("video_name", *self.predictions_by_question):
            if not isinstance(sample.get(name), str) or not sample[name].strip():
                raise OptionError(f"{where}: {name} must be a text, got {sample.get(name)!r:.80}")
        for name in ("question_id", "answer") if self.has_short_answers else ("A",):
            if sample.get(name) is None:
                raise OptionError(f"{where} has no {name}: give the file of the answers too, if there is one")

    def _scored_fields(self, sample: Mapping[str, Any], as_lines: bool) -> dict[str, Any]:
        if not self.has_short_answers:
            return dict(sample)
        question, answer = sample["question"], str(sample["answer"])
        # Video-ChatGPT's inference writes the first three fields, its scoring reads the others.
        fields = {"id": str(sample["question_id"]), "question": question, "answer": answer}
        return fields if as_lines else {**fields, "video_name": sample["video_name"], "Q": question, "A": answer}


def contains_answer(prediction: Mapping[str, Any]) -> bool:
    """Whether the prediction of a short answer has it, in its words and their order."""
    answer, predicted = (" ".join(re.findall(r"\w+", prediction[name].lower())) for name in ("answer", "pred"))
    return f" {answer} " in f" {predicted} "


def dump(predictions: Sequence[Mapping[str, Any]], *, as_lines: bool) -> bytes:
    """Return predictions as JSON: a list, or an object a line.

    Video-LLaVA's script reads each line as a Python expression. There JSON's `null` is an error and its escapes for
    emoji are two characters, so all values of a line are texts, and none has escapes that it can do without.
    """
    rows = [json.dumps(row, ensure_ascii=False) for row in predictions]
    text = "".join(f"{row}\n" for row in rows) if as_lines else "[" + ",\n".join(rows) + "]\n"
    return text.encode("utf-8", errors="backslashreplace")


def _read_list(path: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as exc:
        raise OptionError(f"{path} cannot be read ({exc.strerror}): check the name") from exc
    except (ValueError, RecursionError) as exc:
        raise OptionError(f"{path} is not JSON ({exc})") from exc
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise OptionError(f"{path} must be a JSON list of objects")
    return value


def _joined(questions: list[dict[str, Any]], answers: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    if len(questions) != len(answers):
        raise OptionError(f"{where} have {len(questions)} and {len(answers)} entries: they must be of one set")
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), start=1):
        ids = [entry.get("question_id") for entry in (question, answer)]
        if ids[0] != ids[1]:
            raise OptionError(f"{where}, entry {number}: question_id is {ids[0]!r:.80} and {ids[1]!r:.80}")
    return [{**answer, **question} for question, answer in zip(questions, answers, strict=True)]


def _find(videos: Path, name: str) -> Path:
    paths = (videos / f"{prefix}{name}{suffix}" for prefix in _PREFIXES for suffix in _SUFFIXES)
    return next((path for path in paths if path.exists()), videos / name)
