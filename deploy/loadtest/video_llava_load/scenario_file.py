"""Scenarios out of TOML files, the shipped ones and others."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from .scenario import Mix, Objectives, Phase, Requests, Saturation, Scenario, ScenarioError

T = TypeVar("T")


def shipped_scenarios() -> dict[str, str]:
    """Return the text of each scenario that comes with this package, by name."""
    folder = resources.files("video_llava_load").joinpath("scenarios")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def read_scenario(name: str) -> Scenario:
    """Return the shipped scenario of this name, or the one in the file.

    Raises:
        ScenarioError: There is none, or it cannot be used.
    """
    shipped = shipped_scenarios()
    if name in shipped:
        return parse_scenario(shipped[name], name=name)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        message = f"{name!r} is neither one of {', '.join(shipped)} nor a file that can be read ({exc})"
        raise ScenarioError(message) from exc
    return parse_scenario(text, name=Path(name).stem)


def parse_scenario(text: str, *, name: str) -> Scenario:
    """Return the scenario in a TOML file's text.

    Raises:
        ScenarioError: It is no TOML, has unknown names, or values that cannot be used.
    """
    try:
        return Scenario(name=name, **_read_tables(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as exc:
        raise ScenarioError(f"{name}: not TOML ({exc})") from exc
    except ScenarioError as exc:
        raise ScenarioError(f"{name}: {exc}") from exc


_TABLES = {"mix": Mix, "requests": Requests, "objectives": Objectives, "saturation": Saturation}
_TOP = ("seed", "drain_seconds")


def _read_tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(tables) - {*_TABLES, *_TOP, "phase"}
    if unknown:
        known = ", ".join([*_TOP, *(f"[{table}]" for table in _TABLES), "[[phase]]"])
        raise ScenarioError(f"unknown: {', '.join(sorted(unknown))}; a scenario has {known}")
    values: dict[str, Any] = {table: _make(kind, table, tables.get(table, {})) for table, kind in _TABLES.items()}
    values["phases"] = tuple(_make(Phase, "phase", phase) for phase in _list_of_phases(tables.get("phase", [])))
    return values | {name: _number(name, tables[name]) for name in _TOP if name in tables}


def _list_of_phases(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ScenarioError("write phases as [[phase]], with two brackets")
    return value


def _make(kind: type[T], table: str, values: Any) -> T:
    options = {option.name: option for option in fields(kind)}  # pyright: ignore[reportArgumentType]
    if not isinstance(values, Mapping):
        raise ScenarioError(f"[{table}] must be a table, got {values!r}")
    unknown = set(values) - set(options)
    if unknown:
        raise ScenarioError(f"[{table}] has no {', '.join(sorted(unknown))}; it has {', '.join(options)}")
    missing = [name for name, option in options.items() if option.default is MISSING and name not in values]
    if missing:
        raise ScenarioError(f"[{table}] lacks {', '.join(missing)}")
    typed = {name: _value(f"[{table}] {name}", str(options[name].type), value) for name, value in values.items()}
    return kind(**typed)


def _value(name: str, kind: str, value: Any) -> Any:
    """Return a TOML value as the field's annotation `kind` has it."""
    if kind.startswith("tuple["):
        pair = value if isinstance(value, list) else [value, value]
        if len(pair) != 2:
            raise ScenarioError(f"{name} must be a number or a pair of them, got {value!r}")
        whole = "int" in kind
        return tuple(_number(name, number, whole=whole) for number in pair)
    if kind in ("bool", "str"):
        if type(value).__name__ != kind:
            raise ScenarioError(f"{name} must be {'true or false' if kind == 'bool' else 'a text'}, got {value!r}")
        return value
    return _number(name, value, whole=kind == "int")


def _number(name: str, value: Any, *, whole: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ScenarioError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    return value
