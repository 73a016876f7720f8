import av
from PIL import Image

from tiny.draw import draw_files


def test_files_are_of_the_kinds_people_have_and_show_different_shapes(tmp_path):
    drawings = draw_files(tmp_path)
    for name in (*drawings.clips, "pair.mp4"):
        with av.open(str(tmp_path / name)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 320, 240)
            assert sum(1 for _ in container.decode(stream)) == 32
    with Image.open(tmp_path / "picture.jpg") as picture, Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert picture.format == "JPEG"
        assert sheet.width > 8 * picture.width
        assert sheet.height > 5 * picture.height
    shapes = [scene.shape for scene in (*drawings.clips.values(), drawings.picture)]
    assert len(set(shapes)) == len(shapes)
    assert draw_files(tmp_path) == drawings
    assert draw_files(tmp_path, seed=5) != drawings
