import numpy as np
import pytest
from video_llava_export.errors import VerificationError
from video_llava_export.verification import Difference, format_table


def test_difference_is_relative_to_the_norm_of_the_reference():
    difference = Difference.between("part", np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    assert (difference.absolute, difference.relative) == (0.5, 0.1)


def test_difference_within_tolerance_passes():
    Difference("part", absolute=1.0, relative=1e-4).check(1e-4)


@pytest.mark.parametrize("relative", [2e-4, float("nan"), float("inf")])
def test_difference_above_tolerance_is_refused(relative):
    with pytest.raises(VerificationError, match=r"part differs from the checkpoint by .* tolerated are 1\.0e-04"):
        Difference("part", absolute=1.0, relative=relative).check(1e-4)


def test_other_shape_is_refused():
    with pytest.raises(VerificationError, match=r"part gives shape \(2,\), the checkpoint \(3,\)"):
        Difference.between("part", np.zeros(2), np.zeros(3))


def test_table_has_a_line_a_part():
    lines = format_table([Difference("video_encoder", 1e-5, 2e-6), Difference("vicuna", 0.0, 0.0)]).splitlines()
    assert [line.split()[0] for line in lines] == ["part", "video_encoder", "vicuna"]
    assert len({len(line) for line in lines}) == 1
