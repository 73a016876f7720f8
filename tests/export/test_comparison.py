import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_llava_export import cli
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.comparison import Case, Difference, GreedyAnswer, compare, format_table, make_cases
from video_llava_export.errors import ParityError, VerificationError
from video_llava_export.parity_report import ParityReport, load_answers, save_answers
from video_llava_export.reference import ReferenceDtype, ReferenceModel, reference_features
from video_llava_export.verification import make_probe

CASE = Case(Path("clip.mp4"), "video", "What | happens?")


def reference(ids=(5, 6, 7), best=-0.1, second=-2.5):
    """Three tokens, each far likelier than token 9, the next in line."""
    logprobs = []
    for token in ids:
        row = np.full(10, -20.0, np.float32)
        row[token], row[9] = best, second
        logprobs.append(row)
    return GreedyAnswer("reference", np.ones((4, 2), np.float32), ids, logprobs)


def server(ids=(5, 6, 7), error=0.01):
    rows = reference().logprobs
    listed = [
        {token: float(rows[place][token]) + error for token in (reference().token_ids[place], 9)} for place in (0, 1, 2)
    ]
    return GreedyAnswer("server", np.ones((4, 2), np.float32), ids, listed[: len(ids)])


def test_difference_is_relative_to_the_norm_of_the_reference():
    difference = Difference.between("part", np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    assert (difference.absolute, difference.relative) == (0.5, 0.1)


def test_difference_within_tolerance_passes():
    Difference("part", absolute=1.0, relative=1e-4).check(1e-4)


@pytest.mark.parametrize("relative", [2e-4, float("nan"), float("inf")])
def test_difference_above_tolerance_is_refused(relative):
    with pytest.raises(VerificationError, match=r"part differs from the checkpoint by .*, more than 1\.0e-04"):
        Difference("part", absolute=1.0, relative=relative).check(1e-4)


def test_other_shape_is_refused():
    with pytest.raises(VerificationError, match=r"part has shape \(2,\), the checkpoint's \(3,\)"):
        Difference.between("part", np.zeros(2), np.zeros(3))


def test_table_has_a_line_a_part():
    lines = format_table([Difference("video_encoder", 1e-5, 2e-6), Difference("vicuna", 0.0, 0.0)]).splitlines()
    assert [line.split()[0] for line in lines] == ["part", "video_encoder", "vicuna"]
    assert len({len(line) for line in lines}) == 1


def test_equal_answers():
    comparison = compare(CASE, server(), reference())
    assert (comparison.num_equal, comparison.num_tokens, comparison.first_divergence) == (3, 3, None)
    assert comparison.logprob_error == pytest.approx(0.01, abs=1e-5)
    assert comparison.verdict == "equal"


def test_a_clear_choice_that_differs_is_a_fault():
    comparison = compare(CASE, server((5, 9, 7)), reference())
    assert (comparison.num_equal, comparison.first_divergence, comparison.verdict) == (1, 1, "different")
    assert comparison.gap == pytest.approx(2.4, abs=1e-5)


def test_a_choice_between_equals_is_rounding():
    close = reference(best=-0.69, second=-0.70)
    comparison = compare(CASE, server((5, 9, 7)), close)
    assert comparison.gap == pytest.approx(0.01, abs=1e-5)
    assert comparison.verdict == "rounding"


def test_an_answer_that_ends_early_is_a_fault():
    comparison = compare(CASE, server((5, 6)), reference())
    assert (comparison.first_divergence, comparison.gap, comparison.verdict) == (2, None, "different")


def test_errors_are_counted_only_where_both_read_the_same():
    after = server((9, 6, 7))
    after = replace(after, logprobs=[*after.logprobs[:2], {7: 5.0}])
    assert compare(CASE, after, reference()).logprob_error == pytest.approx(0.01, abs=1e-5)


def test_errors_of_features_are_relative_to_their_norm():
    other = server()
    other.features[0, 0] = 1.5
    comparison = compare(CASE, other, reference())
    assert comparison.feature_error_absolute == 0.5
    assert comparison.feature_error == pytest.approx(0.5 / np.sqrt(8))


def test_another_model_is_refused():
    other = GreedyAnswer("", np.ones((5, 2), np.float32), (), [])
    with pytest.raises(ParityError, match=r"features has shape \(5, 2\), the checkpoint's \(4, 2\); serve the"):
        compare(CASE, other, reference())


def test_report_says_what_was_compared():
    comparisons = (compare(CASE, server(), reference()), compare(CASE, server((5, 9, 7)), reference()))
    report = ParityReport("checkpoint", "localhost:8001", "float32", 3, comparisons)
    assert not report.holds
    written = json.loads(report.as_json())
    assert (written["dtype"], written["decoding"], written["holds"]) == ("float32", "greedy", False)
    assert [case["verdict"] for case in written["comparisons"]] == ["equal", "different"]
    lines = report.as_markdown().splitlines()
    assert lines[0].startswith("Parity of localhost:8001 with checkpoint (Hugging Face, float32): greedy, at most 3")
    assert lines[-1].startswith("| clip.mp4 | What \\| happens? | 1 of 3 | 1 | 2.4e+00 | ")


def test_answers_survive_their_file(tmp_path):
    save_answers(tmp_path / "answers.npz", [CASE], [server()])
    (loaded,) = load_answers(tmp_path / "answers.npz", [CASE])
    assert (loaded.text, loaded.token_ids, loaded.logprobs) == ("server", (5, 6, 7), server().logprobs)
    np.testing.assert_array_equal(loaded.features, server().features)


def test_answers_to_other_questions_are_refused(tmp_path):
    save_answers(tmp_path / "answers.npz", [CASE], [server()])
    with pytest.raises(ParityError, match=r"holds answers to .* name the same media and questions"):
        load_answers(tmp_path / "answers.npz", [Case(CASE.media, "video", "Else?")])


def test_a_file_that_holds_no_answers_is_refused(tmp_path):
    (tmp_path / "answers.npz").write_bytes(b"nothing")
    with pytest.raises(ParityError, match=r"answers\.npz holds no recorded answers"):
        load_answers(tmp_path / "answers.npz", [CASE])


def test_cases_are_every_question_about_every_file(tmp_path, clip_path):
    Image.new("RGB", (60, 60)).save(tmp_path / "picture.png")
    cases = make_cases([clip_path, tmp_path / "picture.png"], ["One?", "Two?"])
    assert [(case.medium, case.question) for case in cases] == [
        ("video", "One?"),
        ("video", "Two?"),
        ("image", "One?"),
        ("image", "Two?"),
    ]


def test_the_reference_answers_from_the_file(small_checkpoint, clip_path, tmp_path):
    checkpoint = open_checkpoint(str(small_checkpoint))
    side = ReferenceModel(checkpoint, dtype=ReferenceDtype.FLOAT32)
    Image.new("RGB", (60, 80), "red").save(tmp_path / "picture.png")
    video, image = (
        side.answer(case, max_tokens=4) for case in make_cases([clip_path, tmp_path / "picture.png"], ["What is it?"])
    )
    assert (video.features.shape, image.features.shape) == ((136, 128), (16, 128))
    for answer in (video, image):
        rows = [row for row in answer.logprobs if isinstance(row, np.ndarray)]
        assert [int(row.argmax()) for row in rows] == list(answer.token_ids)
    # Its own decoder and image processor give the frames that the client sends.
    frames = cli._read_frames(clip_path, checkpoint)
    expected = reference_features(checkpoint, "video", make_probe(checkpoint, frames=frames).video)
    np.testing.assert_allclose(video.features, expected[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arguments", [(), ("--server", "a:1", "--recorded", __file__), ("--record", "b")])
def test_one_side_to_compare_with_must_be_given(run, small_checkpoint, clip_path, arguments):
    code, _, err = run("verify", small_checkpoint, clip_path, *arguments)
    assert code == 2
    assert "give the running server as --server host:port" in err


def test_a_server_that_is_not_there_is_one_line(run, small_checkpoint, clip_path):
    code, _, err = run("verify", small_checkpoint, clip_path, "--server", "127.0.0.1:9")
    assert code == 2
    assert err.startswith("video-llava-export: 127.0.0.1:9 did not answer about ")
