"""A real Prometheus and its promtool: this machine's, else those of Debian's or Ubuntu's package.

The package is unpacked into build/, which takes no root and starts no service, and is kept.
"""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from video_llava_serve._ports import choose_ports

_TOP = Path(__file__).parents[2]
RULES = _TOP / "deploy" / "monitoring" / "rules"
DASHBOARD = _TOP / "deploy" / "monitoring" / "dashboards" / "video-llava.json"
_UNPACKED = _TOP / "build" / "prometheus"
_TIMEOUT_SECONDS = 120


def find(program: str) -> str:
    """Return the path of `prometheus` or `promtool`."""
    if found := shutil.which(program):
        return found
    path = _UNPACKED / "usr" / "bin" / program
    if not path.exists():
        _unpack()
    return str(path)


def _unpack() -> None:
    if shutil.which("apt-get") is None:
        raise FileNotFoundError("neither prometheus nor apt-get is here: install Prometheus, with its promtool")
    shutil.rmtree(_UNPACKED, ignore_errors=True)
    # Lists of packages of our own: a fresh machine has none, and only root may change the machine's.
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (_UNPACKED / "apt" / folder).mkdir(parents=True)
    apt = ["apt-get", "-qq", "-o", f"Dir::State={_UNPACKED}/apt/state", "-o", f"Dir::Cache={_UNPACKED}/apt/cache"]
    apt += ["-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User="]
    _run([*apt, "update"])
    _run([*apt, "download", "prometheus"])
    (package,) = _UNPACKED.glob("prometheus_*.deb")
    _run(["dpkg-deb", "--extract", str(package), str(_UNPACKED)])
    shutil.rmtree(_UNPACKED / "apt")
    package.unlink()


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd=_UNPACKED, timeout=_TIMEOUT_SECONDS)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [find("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Prometheus:
    """A Prometheus that asks one server every second and evaluates the project's rules, inside a `with` block."""

    def __init__(self, folder: Path, target: str) -> None:
        (port,) = choose_ports([("127.0.0.1", 0)])
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [f"{RULES}/*.yml"],
            "scrape_configs": [{"job_name": "video-llava", "static_configs": [{"targets": [target]}]}],
        }
        # JSON is YAML as well.
        (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")

    def __enter__(self) -> Self:
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    find("prometheus"),
                    f"--config.file={self._folder}/prometheus.yml",
                    f"--storage.tsdb.path={self._folder}/data",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def get(self, path: str, **query: str | float) -> Any:
        """The `data` of an answer of its API."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def is_scraping(self) -> bool:
        """Whether the server has answered it already."""
        try:
            return bool(self.query("up == 1"))
        except (OSError, urllib.error.URLError):
            return False

    def rules(self) -> list[dict[str, Any]]:
        """Each rule with its `query`, its `health` and, where it alerts, its `state`."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """What an expression gives now: labels and a value for each series."""
        result = self.get("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]


def dashboard_queries(*, rate_interval: str) -> list[tuple[str, str]]:
    """Each query of the dashboard with its panel's title, for every server and job."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    targets = ((panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", []))
    variables = {"$__rate_interval": rate_interval, "$job": ".*", "$instance": ".*"}
    return [(title, _replace(query, variables)) for title, query in targets]


def _replace(text: str, values: Mapping[str, str]) -> str:
    for variable, value in values.items():
        text = text.replace(variable, value)
    return text
