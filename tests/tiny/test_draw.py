import av
import pytest
from PIL import Image

from tiny.draw import Drawings, draw_files


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    return folder, draw_files(folder)


def test_the_clips_are_h264_of_four_seconds(drawn):
    folder, drawings = drawn
    for name in (*drawings.clips, "pair.mp4"):
        with av.open(str(folder / name)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 320, 240)
            assert sum(1 for _ in container.decode(stream)) == 32


def test_the_picture_is_a_jpeg_of_what_the_contact_sheet_shows(drawn):
    folder, _ = drawn
    with Image.open(folder / "picture.jpg") as picture, Image.open(folder / "contact-sheet.png") as sheet:
        assert picture.format == "JPEG"
        assert sheet.width > 8 * picture.width
        assert sheet.height > 5 * picture.height


def test_no_two_files_show_the_same_shape(drawn):
    drawings: Drawings = drawn[1]
    shapes = [scene.shape for scene in (*drawings.clips.values(), drawings.picture)]
    assert len(set(shapes)) == len(shapes)


def test_the_same_seed_draws_the_same(drawn, tmp_path):
    assert draw_files(tmp_path) == drawn[1]
    assert draw_files(tmp_path / "other", seed=5) != drawn[1]
