"""The client stays light."""

import subprocess
import sys

CODE = """
import sys, video_llava_client
assert all(hasattr(video_llava_client, name) for name in video_llava_client.__all__)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_import_brings_no_framework_no_ffmpeg_and_no_command_line():
    imported = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split()
    assert "video_llava_client" in imported
    assert not {"torch", "transformers", "vllm", "onnxruntime", "av", "typer"} & set(imported)
