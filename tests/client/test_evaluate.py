"""Benchmarks: their own files in, and out what the scripts that score them read."""

import json

import pytest
from click.testing import CliRunner
from support.scorers import as_video_chatgpt, as_video_llava
from video_llava_client.benchmarks import SYSTEM, Benchmark, contains_answer
from video_llava_client.cli import app
from video_llava_client.testing import FakeServer, Reply

QUESTIONS = [
    {"video_name": "-a", "question": "what is it?", "question_id": "v_-a_0"},
    {"video_name": "b", "question": "is it 🎬?", "question_id": "v_b_0"},
    {"video_name": "-a", "question": 'a "\\n"\n\u2028?', "question_id": 7},
]
ANSWERS = [
    {"answer": "dog", "type": 3, "question_id": "v_-a_0"},
    {"answer": "no", "type": 3, "question_id": "v_b_0"},
    {"answer": 2, "type": 7, "question_id": 7},
]
GENERAL = [{"Q": "What?", "A": "A dog runs.", "video_name": name} for name in ("v_a", "b", "v_a")]
CONSISTENCY = [{"Q1": "What?", "Q2": "Which?", "A": "A dog.", "video_name": name} for name in ("v_a", "b")]


def reply(request):
    """Answers with the question."""
    return Reply(f" It is: {request.prompt.split('USER: <video>')[1].removesuffix(' ASSISTANT:').strip()}🎬 ")


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture
def server():
    with FakeServer(script=reply) as running:
        yield running


@pytest.fixture
def videos(tmp_path, bikes):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("v_-a.mp4", "v_a.avi", "b.mkv"):
        (folder / name).symlink_to(bikes)
    return folder


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "test_q.json", QUESTIONS), write(tmp_path / "test_a.json", ANSWERS)


def run(server, *arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--url", server.url, "--attempts", "1"])


def test_short_answers_for_both_scripts(server, videos, files, tmp_path):
    lines, listed = tmp_path / "out.jsonl", tmp_path / "out.json"
    result = run(server, *files, "--videos", videos, "--into", lines)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert "3 predictions for 3 entries" in result.stderr
    expected = {
        "v_-a_0": ("what is it?", "dog", "It is: what is it?🎬"),
        "v_b_0": ("is it 🎬?", "no", "It is: is it 🎬?🎬"),
        "7": ('a "\\n"\n\u2028?', "2", 'It is: a "\\n"\n\u2028?🎬'),
    }
    assert as_video_llava(lines) == expected
    assert [json.loads(line)["pred"] for line in lines.read_text().split("\n")[:-1]] == [
        e[2] for e in expected.values()
    ]

    assert run(server, *files, "--videos", videos, "--into", listed).exit_code == 0
    assert len(server.requests) == 3, "the records of the first run are those of the second"
    assert list(as_video_chatgpt(listed, "Q", "A", "pred").items()) == [
        ("-a_0", expected["v_-a_0"]),
        ("b_0", expected["v_b_0"]),
        ("-a_1", expected["7"]),
    ]


def test_questions_are_asked_as_by_the_original(server, videos, files, tmp_path):
    run(server, *files, "--videos", videos, "--into", tmp_path / "out.json")
    prompts = {request.prompt for request in server.requests}
    assert f"{SYSTEM} USER: <video>\nwhat is it? ASSISTANT:" in prompts
    assert all(
        request.sampling == {"max_tokens": 1024, "temperature": 0.0, "priority": 1} for request in server.requests
    )
    assert {request.num_media for request in server.requests} == {(1, 0)}
    run(server, *files, "--videos", videos, "--into", tmp_path / "other.json", "--system", "", "--max-tokens", 8)
    assert server.requests[-1].prompt.startswith("USER: <video>\n")
    assert server.requests[-1].sampling["max_tokens"] == 8


@pytest.mark.parametrize(
    ("samples", "fields", "expected"),
    [
        (GENERAL, ("Q", "A", "pred"), [("v_a_0", "What?"), ("b_0", "What?"), ("v_a_1", "What?")]),
        (
            CONSISTENCY,
            ("Q1", "Q2", "A", "pred1", "pred2"),
            [("v_a_0", "What?", "Which?"), ("b_0", "What?", "Which?")],
        ),
    ],
)
def test_the_generative_benchmark(server, videos, tmp_path, samples, fields, expected):
    result = run(server, write(tmp_path / "qa.json", samples), "--videos", videos, "--into", tmp_path / "out.json")
    assert result.exit_code == 0, result.stderr
    assert "word for word" not in result.stderr
    assert list(as_video_chatgpt(tmp_path / "out.json", *fields).items()) == [
        (key, (*questions, samples[0]["A"], *(f"It is: {question}🎬" for question in questions)))
        for key, *questions in expected
    ]


def test_a_missing_video_is_left_out_and_asked_when_it_is_there(server, videos, tmp_path, bikes):
    (videos / "b.mkv").unlink()
    arguments = (write(tmp_path / "qa.json", CONSISTENCY), "--videos", videos, "--into", tmp_path / "out.json")
    result = run(server, *arguments)
    assert (result.exit_code, "1 predictions for 2 entries" in result.stderr) == (3, True)
    assert list(as_video_chatgpt(tmp_path / "out.json", "Q1")) == ["v_a_0"]
    records = [json.loads(line) for line in (tmp_path / "out.records.jsonl").read_text().splitlines()]
    errors = [(each["id"], each["error"]["type"]) for each in records if "error" in each]
    assert errors == [("b", "MediaNotFound")] * 2

    (videos / "b.webm").symlink_to(bikes)
    assert run(server, *arguments).exit_code == 0
    assert list(as_video_chatgpt(tmp_path / "out.json", "Q1")) == ["v_a_0", "b_0"]
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("name.mp4", "name.mp4"),
        ("name.avi", "name.avi"),  # MSVD
        ("v_name.mkv", "v_name.mkv"),  # ActivityNet
        ("name.gif", "name.gif"),  # TGIF
        ("name/1.png", "name"),  # a folder of frames
        ("name.txt", "name"),
    ],
)
def test_how_a_video_is_found(tmp_path, file, found):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    questions = write(tmp_path / "qa.json", [{"Q": "What?", "A": "It.", "video_name": "name"}])
    (line,) = Benchmark.read(questions).lines(tmp_path)
    assert line["video"] == str(tmp_path / found)


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        (QUESTIONS, None, "entry 1 has no answer: give the file of the answers too"),
        (QUESTIONS, ANSWERS[:2], "have 3 and 2 entries"),
        (QUESTIONS, [ANSWERS[0], ANSWERS[2], ANSWERS[1]], "entry 2: question_id is 'v_b_0' and 7"),
        ([{**QUESTIONS[0], "question": " "}], ANSWERS[:1], "entry 1: question must be a text, got ' '"),
        ([*GENERAL, {"Q": "What?", "A": "It."}], None, "entry 4: video_name must be a text, got None"),
        ([{"question_id": "a"}], None, "must have 'question', 'Q', or 'Q1' and 'Q2'"),
        ([], None, "must have 'question', 'Q', or 'Q1' and 'Q2'"),
        ({"a": 1}, None, "must be a JSON list of objects"),
        ("nonsense", None, "must be a JSON list of objects"),
    ],
)
def test_files_of_something_else(server, videos, tmp_path, questions, answers, message):
    files = [write(tmp_path / "q.json", questions)] + ([write(tmp_path / "a.json", answers)] if answers else [])
    result = run(server, *files, "--videos", videos, "--into", tmp_path / "out.json")
    assert (result.exit_code, server.requests) == (2, [])
    assert message in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["videos", *(path.name for path in files)])


@pytest.mark.parametrize(("text", "message"), [(None, "cannot be read"), ("[", "is not JSON")])
def test_a_file_that_cannot_be_read(server, videos, tmp_path, text, message):
    if text is not None:
        (tmp_path / "q.json").write_text(text)
    result = run(server, tmp_path / "q.json", "--videos", videos, "--into", tmp_path / "out.json")
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_no_folder_of_videos(server, files, tmp_path):
    result = run(server, *files, "--videos", tmp_path / "no", "--into", tmp_path / "out.json")
    assert (result.exit_code, f"{tmp_path / 'no'} is not a folder" in result.stderr) == (2, True)


def test_predictions_that_no_script_reads_and_files_of_others(server, videos, files, tmp_path):
    general = write(tmp_path / "qa.json", GENERAL)
    for questions, into, message in (
        ([general], "out.jsonl", "must end in .json, which"),
        (files, "out.txt", "must end in .jsonl or .json, which"),
        (files, "test_a.json", "exists, without test_a.records.jsonl beside it"),
        (files, "no/out.json", "no/out.questions.jsonl cannot be written"),
    ):
        result = run(server, *questions, "--videos", videos, "--into", tmp_path / into)
        assert (result.exit_code, server.requests) == (2, [])
        assert message in result.stderr
    assert json.loads(files[1].read_text()) == ANSWERS


@pytest.mark.parametrize(
    ("answer", "prediction", "contains"),
    [
        ("no", "No.", True),
        ("no", "I don't know.", False),
        ("T-shirt", "A red t shirt, I think.", True),
        ("red shirt", "A shirt that is red", False),
        ("?", "What?", False),
    ],
)
def test_a_prediction_contains_the_answer(answer, prediction, contains):
    assert contains_answer({"answer": answer, "pred": prediction}) == contains
