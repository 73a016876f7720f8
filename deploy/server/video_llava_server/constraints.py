"""Constraints of an answer (`structured_outputs`): what the engine would ignore is refused by name.

vLLM 0.32 reads no switch of a request beside the constraint itself. Its grammar library (xgrammar 0.2.8) ignores words
of JSON Schema without an error: some always, some without `type`, all that stand beside a word such as `anyOf`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import msgspec
from vllm.sampling_params import StructuredOutputsParams

from .errors import InvalidArgument

SWITCHES = {"disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"}
CONSTRAINTS = [field.name for field in fields(StructuredOutputsParams) if field.init and field.name not in SWITCHES]
"""What `structured_outputs` may hold."""

IGNORED_WORDS = {
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
    *("$dynamicRef", "$recursiveRef", "contains", "minContains", "maxContains", "uniqueItems", "multipleOf"),
}
_ALONE = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
"""Beside one of these no other word is read."""
_NEED_TYPE = {
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "format"),
    *("minItems", "maxItems", "minProperties", "maxProperties", "patternProperties", "propertyNames", "required"),
}
_SUBSCHEMA = {"items", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "propertyNames"}
_SUBSCHEMAS = {"prefixItems", "anyOf", "oneOf", "allOf"}
_SUBSCHEMAS_BY_NAME = {"properties", "patternProperties", "$defs", "definitions"}
_SCHEMA_IN_TAG = {"schema", "json_schema"}
_WORDS = {"type", "properties", "prefixItems", *_NEED_TYPE, *_SUBSCHEMA}

_JSON_TYPES = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
_EVERY_TYPE = {*_JSON_TYPES.values(), "null"}
# Bounds on the work for one schema: all other requests wait for it.
_MAX_ONE_OFS = 100
_MAX_MARKS = 16


def check_constraint(given: Mapping[str, Any]) -> None:
    """Refuse what would be ignored, and what the engine cannot be sent. Raises InvalidArgument."""
    unknown = given.keys() - set(CONSTRAINTS)
    if unknown:
        raise _refusal(f"has no {', '.join(map(repr, sorted(unknown)))}; it has {', '.join(CONSTRAINTS)}")
    try:
        msgspec.msgpack.encode(given)  # as on its way to the engine's process
        for schema in _schemas(given):
            _Schema(schema).check()
    except OverflowError as exc:
        raise _refusal("has a number of more than 64 bits") from exc
    except UnicodeEncodeError as exc:
        raise _refusal("holds half a surrogate pair, which is no text") from exc
    except RecursionError as exc:
        raise _refusal("is nested too deeply") from exc


def _refusal(what: str) -> InvalidArgument:
    return InvalidArgument(f"sampling_parameters: structured_outputs {what}")


def _schemas(given: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the JSON Schemas of a constraint; a structural tag has one for each of its tags."""
    yield _parsed(given.get("json"))
    parts = [_parsed(given.get("structural_tag"))]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            yield from (part[name] for name in _SCHEMA_IN_TAG & part.keys())
            parts += (value for name, value in part.items() if name not in _SCHEMA_IN_TAG)
        elif isinstance(part, list):
            parts += part


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None  # the engine refuses it


@dataclass(frozen=True)
class _Branch:
    """What tells a branch of a `oneOf` from others: its JSON types, and marks.

    A mark is the set of values that "" (the whole) or a required property may have.
    """

    types: set[str]
    marks: Mapping[str, set[bytes]]

    @classmethod
    def of(cls, schema: Any) -> "_Branch":
        if not isinstance(schema, dict):
            return cls(_EVERY_TYPE, {})
        if own := _constants(schema):
            return cls({_JSON_TYPES.get(type(value), "null") for value in own}, {"": _as_json(own)})
        properties, required = schema.get("properties"), schema.get("required")
        if not isinstance(properties, dict) or not isinstance(required, list):
            return cls(_types(schema), {})
        names = (name for name in required if isinstance(name, str) and _constants(properties.get(name)))
        marks = {name: _as_json(_constants(properties[name])) for name in islice(names, _MAX_MARKS)}
        return cls(_types(schema), marks)


class _Schema:
    """One JSON Schema, which may refer to its own parts."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._branches: dict[int, _Branch] = {}
        self._num_one_ofs = 0

    def check(self) -> None:
        """Check the schema and each schema in it once: references may form a circle."""
        seen: set[int] = set()
        todo = [self._root]
        while todo:
            schema = todo.pop()
            if isinstance(schema, dict) and id(schema) not in seen:
                seen.add(id(schema))
                _check_words(schema)
                if isinstance(schema.get("oneOf"), list):
                    self._check_one_of([self._branch(branch) for branch in schema["oneOf"]])
                todo += [*_subschemas(schema), self._follow(schema)]

    def _follow(self, schema: Any) -> Any:
        """Return what a reference within this schema refers to, anything else as it is."""
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        found = self._root
        for name in reference.split("/")[1:]:
            if not isinstance(found, dict):
                return schema
            found = found.get(name.replace("~1", "/").replace("~0", "~"))
        return found

    def _branch(self, schema: Any) -> _Branch:
        schema = self._follow(schema)
        if id(schema) not in self._branches:
            self._branches[id(schema)] = _Branch.of(schema)
        return self._branches[id(schema)]

    def _check_one_of(self, branches: Iterable[_Branch]) -> None:
        self._num_one_ofs += 1
        by_type: dict[str, list[_Branch]] = {}
        for branch in branches:
            for name in branch.types:
                by_type.setdefault(name, []).append(branch)
        if self._num_one_ofs > _MAX_ONE_OFS or not all(map(_differ, by_type.values())):
            raise _refusal(
                "has a oneOf whose branches may overlap, which the grammar would take for anyOf: use anyOf, or give "
                "each branch a type of its own or a required property with a const of its own"
            )


def _differ(branches: Sequence[_Branch]) -> bool:
    """Whether there is one branch, or one mark that has other values in each."""
    return len(branches) == 1 or any(
        _are_disjoint(branch.marks.get(name) for branch in branches) for name in branches[0].marks
    )


def _are_disjoint(sets: Iterable[set[bytes] | None]) -> bool:
    seen: set[bytes] = set()
    for values in sets:
        if values is None or not seen.isdisjoint(values):
            return False
        seen |= values
    return True


def _check_words(schema: Mapping[str, Any]) -> None:
    for word in schema:
        if word in IGNORED_WORDS:
            raise _refusal(f"has the JSON Schema word {word!r}, which the grammar would ignore: leave it out")
    alone = [word for word in _ALONE if word in schema]
    if alone:
        allowed = {"type"} if alone[0] in ("const", "enum") else set()
        beside = alone[1:] or [word for word in schema if word in _WORDS and word not in allowed]
        if beside:
            raise _refusal(f"has {beside[0]!r} beside {alone[0]!r}, where the grammar would ignore it: write it inside")
        if alone[0] == "allOf" and isinstance(schema["allOf"], list) and len(schema["allOf"]) > 1:
            raise _refusal("has 'allOf' with several branches, which the grammar would ignore: join them to one")
    elif "type" not in schema:
        read = {"required"} if "properties" in schema else set()
        for word in schema:
            if word in _NEED_TYPE - read:
                raise _refusal(f"has {word!r} without 'type', where the grammar would ignore it: add the type")


def _subschemas(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the schemas right inside one, not what constants, defaults and examples hold."""
    for word, value in schema.items():
        if word in _SUBSCHEMA:
            yield value
        elif word in _SUBSCHEMAS and isinstance(value, list):
            yield from value
        elif word in _SUBSCHEMAS_BY_NAME and isinstance(value, dict):
            yield from value.values()


def _types(schema: Mapping[str, Any]) -> set[str]:
    """Return the JSON types that a schema may allow; an integer is a number too."""
    given = schema.get("type")
    names = {"number" if name == "integer" else str(name) for name in (given if isinstance(given, list) else [given])}
    return names if names and names <= _EVERY_TYPE else _EVERY_TYPE


def _constants(schema: Any) -> list[Any]:
    """Return the values that `const` or `enum` allows, none where neither stands."""
    if not isinstance(schema, dict):
        return []
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else []


def _as_json(values: Iterable[Any]) -> set[bytes]:
    return {msgspec.json.encode(value, order="sorted") for value in values}
