"""A constraint is kept whole or refused by the name of what would be ignored."""

import json
import re
from pathlib import Path

import pytest
from video_llava_server.constraints import CONSTRAINTS, IGNORED_WORDS, SWITCHES
from video_llava_server.errors import InvalidArgument
from video_llava_server.sampling import parse_sampling

README = (Path(__file__).parents[3] / "model_repository" / "README.md").read_text(encoding="utf-8")


def constrain(**constraint):
    made = parse_sampling({"structured_outputs": constraint}, stream=False).structured_outputs
    assert made is not None
    return made


def an_object(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


CAT, DOG = an_object(kind={"const": "cat"}), an_object(kind={"enum": ["dog", "wolf"]})
PETS = {"$defs": {"Cat": CAT, "Dog": DOG}, "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [("disable_any_whitespace", False), ("disable_additional_properties", True), ("whitespace_pattern", " ?")],
)
def test_switches_that_the_engine_does_not_read_are_refused(name, value):
    with pytest.raises(InvalidArgument, match=f"structured_outputs has no '{name}'; it has json, regex, choice"):
        constrain(json={"type": "object"}, **{name: value})


IGNORED = {
    "not": {"type": "integer", "not": {"const": 3}},
    "if": {"type": "object", "if": {"required": ["a"]}},
    "then": {"type": "object", "then": {"required": ["a"]}},
    "else": {"type": "object", "else": {"required": ["a"]}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}},
    "dependencies": {"type": "object", "dependencies": {"a": ["b"]}},
    "uniqueItems": {"uniqueItems": True},
    "$dynamicRef": {"$dynamicRef": "#n"},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 1}]},
    "minimum": {"minimum": 3},
    "required": {"required": ["a"]},
    "properties": {"anyOf": [{"type": "object"}], "properties": {"a": {"type": "integer"}}},
    "maxLength": {"enum": ["a", "bc"], "type": "string", "maxLength": 1},
    "allOf": {"allOf": [{"type": "string"}, {"enum": ["a"]}]},
}
PLACES = {
    "the root": lambda schema: schema,
    "a property": lambda schema: an_object(a=schema),
    "an item of an item": lambda schema: {"type": "array", "items": {"type": "array", "prefixItems": [schema]}},
    "a branch": lambda schema: {"anyOf": [{"type": "null"}, schema]},
    "other properties": lambda schema: {"type": "object", "additionalProperties": schema},
    "$defs": lambda schema: {"$defs": {"x": schema}, "$ref": "#/$defs/x"},
    "a reference to anywhere": lambda schema: {"elsewhere": {"x/y": schema}, "$ref": "#/elsewhere/x~1y"},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("word", IGNORED)
def test_words_that_the_grammar_ignores_are_refused_at_any_depth(word, place):
    schema = PLACES[place](IGNORED[word])
    with pytest.raises(InvalidArgument, match=f"structured_outputs has .*{word.replace('$', '.')}"):
        constrain(json=schema)
    with pytest.raises(InvalidArgument, match=f"structured_outputs has .*{word.replace('$', '.')}"):
        constrain(json=json.dumps(schema))


@pytest.mark.parametrize(
    "tag",
    [
        {"structures": [{"begin": "<a>", "schema": IGNORED["not"], "end": "</a>"}], "triggers": ["<a>"]},
        {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": IGNORED["not"]}},
    ],
)
def test_the_schemas_of_a_structural_tag_are_checked_too(tag):
    with pytest.raises(InvalidArgument, match="JSON Schema word 'not'"):
        constrain(structural_tag=json.dumps(tag))


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        an_object(**{"not": {"type": "string"}, "if": {"type": "string"}, "oneOf": {"type": "string"}}),
        {"type": "object", "patternProperties": {"^not$": {"type": "integer"}}},
        {"$defs": {"not": {"type": "string"}}, "$ref": "#/$defs/not"},
        {"const": {"not": 1, "oneOf": [{}, {}]}},
        {"type": "object", "default": {"not": 1}, "examples": [{"if": 1}], "description": "not", "title": "if"},
        {"enum": ["a", "b"], "type": "string", "description": "one of two"},
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None},
        {"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
        an_object(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
        PETS | {"discriminator": {"propertyName": "kind"}},
        {"oneOf": [CAT, DOG, {"type": "null"}, {"type": "integer"}]},
        {"oneOf": [{"const": 1}, {"enum": [2, "a"]}, {"const": "b"}]},
        {"oneOf": [{"type": "object"}]},
    ],
)
def test_schemas_that_the_grammar_keeps_pass(schema):
    text = json.dumps(schema)
    assert constrain(json=text).json == text


@pytest.mark.parametrize(
    "branches",
    [
        [{}, {"type": "string"}],
        [CAT, CAT],
        [CAT, {"type": "object"}],
        [CAT, DOG, an_object(kind={"enum": ["fox", "wolf"]})],
        [CAT, {"type": "object", "properties": {"kind": {"const": "dog"}}}],
        [{"const": 1}, {"type": "integer"}],
        [{"enum": [1, 2]}, {"enum": [2, 3]}],
        [{"type": ["string", "null"]}, {"type": "null"}],
    ],
)
def test_branches_of_one_of_that_may_overlap_are_refused(branches):
    with pytest.raises(InvalidArgument, match="has a oneOf whose branches may overlap"):
        constrain(json={"oneOf": branches})


def test_half_a_surrogate_pair_in_a_schema_is_refused():
    with pytest.raises(InvalidArgument, match="holds half a surrogate pair"):
        constrain(json=r'{"oneOf": [{"const": "\ud800"}, {"const": 1}]}')


def test_the_readme_names_what_is_taken_and_what_is_refused():
    assert {f"`{word}`" for word in {*CONSTRAINTS, *IGNORED_WORDS, *SWITCHES}} <= set(re.findall("`[^`]+`", README))


def test_an_answer_that_may_not_end_cannot_keep_a_constraint():
    sampling = {"structured_outputs": {"choice": ["yes"]}, "ignore_eos": True}
    with pytest.raises(InvalidArgument, match="ignore_eos is true beside structured_outputs"):
        parse_sampling(sampling, stream=False)
    assert parse_sampling(sampling | {"ignore_eos": False}, stream=False).structured_outputs
