"""`video-llava-export verify` against a real server: the parity that users can measure themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image


def test_the_server_is_the_references_equal(checkpoint: Path, server, clip_path: Path, tmp_path: Path):
    Image.new("RGB", (120, 90), "teal").save(tmp_path / "picture.png")
    command = [
        *(str(Path(sys.executable).with_name("video-llava-export")), "verify", str(checkpoint)),
        *(str(clip_path), str(tmp_path / "picture.png"), "--server", server.grpc_url),
        *("--question", "What happens?", "--max-tokens", "24"),
        *("--json", str(tmp_path / "parity.json"), "--markdown", str(tmp_path / "parity.md")),
    ]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # the engine runs at the same time
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
    assert (report["holds"], report["dtype"], report["decoding"]) == (True, "float32", "greedy")
    for case in report["comparisons"]:
        assert (case["verdict"], case["first_divergence"]) == ("equal", None)
        assert case["num_tokens"] == case["num_equal"] > 0
        assert 0 < case["feature_error"] < 1e-4
        assert 0 < case["logprob_error"] < 1e-2
    assert (tmp_path / "parity.md").read_text(encoding="utf-8") == done.stdout
