"""Paths and fields: what they find in a nested message, how it is named, and what is said where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fml_lightning.connectors.codecs import CodecError
from fml_lightning.connectors.codecs.fields import Fields, Values
from fml_lightning.connectors.codecs.path import AnyKey, Each, Index, Key, Path, Step
from fml_lightning.errors import UserError


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("value", [Key("value")]),
        ("a.b", [Key("a"), Key("b")]),
        ('object."rms.x"', [Key("object"), Key("rms.x")]),
        ('"a.b"[0]', [Key("a.b"), Index(0)]),
        ("values[*].v", [Key("values"), Each(), Key("v")]),
        ("[*][-1]", [Each(), Index(-1)]),
        ("*", [AnyKey()]),
        ("*.*", [AnyKey(), AnyKey()]),
        ("{machine}.{channel}.v", [AnyKey("machine"), AnyKey("channel"), Key("v")]),
        ("1.-2", [Key("1"), Key("-2")]),
        ("the value", [Key("the value")]),
        # Keys as devices have them, which are no paths.
        ("Temp.", [Key("Temp.")]),
        ("a..b", [Key("a..b")]),
        (".x", [Key(".x")]),
        ("Temp [°C]", [Key("Temp [°C]")]),
        ("U[V]", [Key("U[V]")]),
        ('say "a"', [Key('say "a"')]),
        ("rms (mm/s)", [Key("rms (mm/s)")]),
        ("a*b", [Key("a*b")]),
    ],
)
def test_what_a_text_says(text: str, steps: Sequence[Step]) -> None:
    assert list(Path.parse(text).steps) == steps


@pytest.mark.parametrize("text", ["{chanel}", "a.{unit}", "{}"])
def test_braces_name_something(text: str) -> None:
    with pytest.raises(UserError, match=r"expected \{channel\}, \{machine\} or \{site\} in braces"):
        Path.parse(text)


def found(value: Values, message: Any, ignore: Sequence[str] = (), **roles: str) -> list[tuple[Any, ...]]:
    """Value, channel, and roles if there are any, of each member."""
    members = Fields.of("X", value, roles, ignore).select(message, {})
    return [(m.value, m.channel, *([dict(m.roles)] if m.roles else [])) for m in members]


PUBSUB = {
    "Messages": [{"Payload": {"a": {"Value": 1, "t": 5}, "b": {"Value": 2}}}, {"Payload": {"c": {"Value": 3}}}]
}


@pytest.mark.parametrize(
    ("value", "message", "expected"),
    [
        ("value", {"value": 1, "x": 2}, [(1, None)]),
        ("a.b", {"a": {"b": 1}}, [(1, None)]),
        ("a.b", {"a.b": 2, "a": {"b": 1}}, [(2, None)]),  # a flat key of that text, as before there were paths
        ('"a.b"', {"a.b": 2}, [(2, None)]),
        ("a[1]", {"a": [1, 2]}, [(2, None)]),
        ("a[-1]", {"a": [1, 2, 3]}, [(3, None)]),
        ("[0]", [7], [(7, None)]),
        ("a[*].v", {"a": [{"v": 1}, {"w": 5}, 3, {"v": 2}]}, [(1, None), (2, None)]),
        ("a[*][*]", {"a": [[1, 2], [3]]}, [(1, None), (2, None), (3, None)]),
        ("1.2", {1: {2: 5}}, [(5, None)]),
        ("*", {"a": 1, "b": None, 3: 2}, [(1, "a"), (2, "3")]),
        ("o.*", {"o": {"a": 1, "b": 2}, "c": 3}, [(1, "a"), (2, "b")]),
        ("*.*", {"BME": {"T": 1}, "DS": {"T": 2}}, [(1, "BME/T"), (2, "DS/T")]),
        ("o[*].*", {"o": [{"x": 1}, {"x": 2}]}, [(1, "x"), (2, "x")]),
        ("o.*", {"o": [4, 5]}, [(4, "0"), (5, "1")]),
        ("Messages[*].Payload.*.Value", PUBSUB, [(1, "a/Value"), (2, "b/Value"), (3, "c/Value")]),
        ("Messages[*].Payload.{channel}.Value", PUBSUB, [(1, "a"), (2, "b"), (3, "c")]),
        ("{machine}.v", {"m": {"v": 1}}, [(1, None)]),
        ("{machine}.*", {"m": {"v": 1}}, [(1, "v")]),
        (("a", "b.c"), {"a": 1, "b": {"c": 2}}, [(1, "a"), (2, "c")]),
        (("x.rms", "y.rms"), {"x": {"rms": 1}, "y": {"rms": 2}}, [(1, "x/rms"), (2, "y/rms")]),
        (("x.rms", "y.rms"), {"x.rms": 1, "y.rms": 2}, [(1, "x.rms"), (2, "y.rms")]),
        (("a[0]", "a[1]"), {"a": [1, 2]}, [(1, "a/0"), (2, "a/1")]),
        (("t", "o.*"), {"t": 1, "o": {"a": 2}}, [(1, "t"), (2, "a")]),
        (("*", "o.t"), {"x": 1, "o": {"t": 2}, "o.t": None}, [(1, "x"), ({"t": 2}, "o")]),
        ({"rms": "a.b", "n": "o.*.v"}, {"a": {"b": 1}, "o": {"k": {"v": 2}}}, [(1, "rms"), (2, "n/k")]),
    ],
)
def test_what_a_path_finds_and_how_it_is_named(value: Values, message: Any, expected: list[Any]) -> None:
    assert found(value, message) == expected


def test_a_role_stands_in_the_same_item_or_holds_for_all() -> None:
    message = {"site": "n", "values": [{"v": 1, "t": 10}, {"v": 2}]}
    assert found("values[*].v", message, time="values[*].t", site="site") == [
        (1, None, {"site": "n", "time": 10}),
        (2, None, {"site": "n"}),
    ]
    assert found("Messages[*].Payload.{channel}.Value", PUBSUB, time="Messages[*].Payload.*.t")[:2] == [
        (1, "a", {"time": 5}),
        (2, "b"),
    ]
    nested = {"lines": [{"name": "L1", "v": [{"x": 1}, {"x": 2}]}, {"name": "L2", "v": [{"x": 3}]}]}
    assert found("lines[*].v[*].x", nested, machine="lines[*].name") == [
        (1, None, {"machine": "L1"}),
        (2, None, {"machine": "L1"}),
        (3, None, {"machine": "L2"}),
    ]


def test_roles_and_what_is_ignored_are_no_values() -> None:
    message = {"time": 1, "o": {"a": 1, "b": 2, "c": 3, "t": 9}, "p": {"a": 4}}
    assert found("o.*", message, time="o.t", ignore=["o.b"]) == [(1, "a", {"time": 9}), (3, "c", {"time": 9})]
    assert found("*.*", message, ignore=["*.a", "o.t"]) == [(2, "o/b"), (3, "o/c")]
    assert found("*", {"rms.x": 1, "rms.y": 2}, ignore=["rms.x"]) == [(2, "rms.y")]
    assert found("*.*", message, ignore=["o"]) == [(4, "p/a")]


@pytest.mark.parametrize(
    ("value", "message", "fault"),
    [
        ("value", {"a": 1, "b": 2}, "payload: expected an object with value, got an object with a, b"),
        ("value", [1], "payload: expected an object with value, got a list"),
        ("up.decoded.rms", {"up": {"decoded": [1]}}, "up.decoded: expected an object with rms, got a list"),
        ("up.decoded.rms", {"up": None}, "up: expected an object with decoded, got null"),
        ("up.rms", {"up": {"rms": None}}, "up.rms: expected a value, got null"),
        ("up.rms", {"up": "n/a"}, "up: expected an object with rms, got 'n/a'"),
        ("a[3]", {"a": [1]}, "a: expected a list with an item 3, got a list"),
        ("a[*].v", {"a": {"v": 1}}, "a: expected a list, got an object with v"),
        ("a[*].v", {"a": [{"w": 1}]}, r"a\[0\]: expected an object with v, got an object with w"),
        ('"a.b".c', {"a.b": 1}, '"a.b": expected an object with c, got 1'),
        ("Payload.*.Value", {"Payload": {"x": {"V": 1}}}, "Payload.x: expected an object with Value, got .* V"),
        (("a", "b.c"), {"b": 5}, "expected at least one of a, b.c, got none: payload: expected an object with a"),
    ],
)
def test_where_a_path_ends_is_told(value: Values, message: Any, fault: str) -> None:
    with pytest.raises(CodecError, match=fault):
        found(value, message)


@pytest.mark.parametrize(
    ("value", "roles", "message", "rows"),
    [
        (
            "values.{channel}",
            {"unit": "meta.{channel}.unit", "time": "t"},
            {
                "values": {"a": 1, "b": 2, "c": 3},
                "meta": {"b": {"unit": "g"}, "a": {"unit": "V"}, "c": None},
                "t": 7,
            },
            [("a", 1, {"unit": "V", "time": 7}), ("b", 2, {"unit": "g", "time": 7}), ("c", 3, {"time": 7})],
        ),
        (
            "v[*]",
            {"time": "t[*]", "channel": "names[*].id"},
            {"v": [1, 2, 3], "t": [10, 20], "names": [{"id": "x"}, {"id": "y"}, {}]},
            [
                (None, 1, {"time": 10, "channel": "x"}),
                (None, 2, {"time": 20, "channel": "y"}),
                (None, 3, {}),
            ],
        ),
        (
            "m.{machine}[*].v[*]",
            {"unit": "units.*[*]", "time": "m.*[*].t"},
            {"m": {"p": [{"v": [1, 2], "t": 5}, {"v": [3]}]}, "units": {"p": ["A", "B"], "q": ["C"]}},
            [
                (None, 1, {"time": 5, "unit": "A"}),
                (None, 2, {"time": 5, "unit": "A"}),
                (None, 3, {"unit": "B"}),
            ],
        ),
    ],
)
def test_roles_that_stand_elsewhere_by_the_same_keys(
    value: Values, roles: dict[str, str], message: Any, rows: list[tuple[str | None, Any, dict[str, Any]]]
) -> None:
    members = list(Fields.of("X", value, roles).select(message, {}))
    assert [(member.channel, member.value, member.roles) for member in members] == rows


def test_a_role_elsewhere_is_told_by_its_own_keys() -> None:
    fields = Fields.of("X", "v[*]", {"time": "at.t[*].ms"})
    (member,) = fields.select({"v": [1], "at": {"t": [{"ms": "x"}]}}, {})
    assert fields.where("time", member) == "at.t[0].ms"


def test_stamps_in_a_typed_array_are_taken_one_by_one() -> None:
    members = Fields.of("X", "v[*]", {"time": "t[*]"}).select({"v": np.arange(3.0), "t": np.array([5, 6, 7])}, {})
    assert [(member.value, member.roles) for member in members] == [
        (0.0, {"time": 5}),
        (1.0, {"time": 6}),
        (2.0, {"time": 7}),
    ]


def test_what_is_passed_over_beyond_a_wildcard_is_told() -> None:
    passed: dict[str, object] = {}
    members = list(Fields.of("X", "*.*", {}).select({"BME": {"T": 1}, "uptime": 5, "off": None}, passed))
    assert len(members) == 1
    assert passed == {"uptime": 5}


@pytest.mark.parametrize(
    ("value", "roles", "match"),
    [
        ((), {}, "X.value: expected a path, several, or"),
        ("", {}, "not empty"),
        ("a", {"time": ""}, "not empty"),
        ("a.b", {"time": '"a".b'}, "differ from one another"),
        ("value", {"time": "a[*].t"}, r"X.time: expected a path without wildcards, .* 'a\[\*\].t' beside value"),
        ("a[*].v", {"time": "b.*.t"}, "X.time: .* with those of a value's path, in the same order"),
        ("a[*].*", {"unit": "b.*"}, "X.unit"),
        ("a[*].v", {"time": "a[*].t[*]"}, "X.time"),
        (("a.*.v", "b.*.v"), {}, r"different names, got a.\*.v, b.\*.v; name them in a mapping"),
        ("{machine}.{machine}", {}, "each of .* once"),
    ],
)
def test_paths_that_cannot_be_meant(value: Values, roles: dict[str, str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        Fields.of("X", value, roles)


def test_a_long_key_is_not_repeated_in_each_name() -> None:
    message = {"k" * 10_000: dict.fromkeys(map(str, range(1000)), 1)}
    with pytest.raises(CodecError, match=r"k….0: expected a name of at most 256 characters"):
        found("*.*", message)
