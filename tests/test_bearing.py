"""Bearings against published orders, and against gears: a bearing is a planetary gear without teeth."""

from __future__ import annotations

import math

import pytest

from fml_lightning.bearing import INPUTS, TABLE, Bearing
from fml_lightning.errors import UserError


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("6205-2RS", (3.5848, 5.4152, 4.7135 / 2, 0.39828)),
        ("6203-2RS", (3.0530, 4.9469, 3.9874 / 2, 0.3817)),
    ],
)
def test_cwru_publishes_these_orders_and_its_dimensions_agree(name: str, orders: tuple[float, ...]) -> None:
    """2e-4: what the dimensions, in thousandths of an inch, leave open."""
    bearing = Bearing.named(name)
    assert tuple(bearing.inputs.values()) == orders
    assert tuple(bearing.inputs) == INPUTS == ("bpfo", "bpfi", "bsf", "ftf")
    by_dimensions = Bearing(bearing.balls, bearing.ratio)
    assert tuple(by_dimensions.inputs.values()) == pytest.approx(orders, rel=2e-4)


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("NICE", (3.245, 4.755, 5.110 / 2, 0.4056)),
        ("Rexnord ZA-2115", (236.4 / (100 / 3), 296.9 / (100 / 3), 139.9 / (100 / 3), 14.8 / (100 / 3))),
        ("LDK UER204", (123.32 / 40, 196.68 / 40, 82.66 / 40, 15.42 / 40)),
    ],
)
def test_other_rigs_orders_follow_from_their_dimensions(name: str, orders: tuple[float, ...]) -> None:
    """IMS's were published as Hz at 2000 rpm; others print XJTU-SY's as Hz at 2400 rpm, but for the spin, which is
    40 · 34.55 / (2 · 7.92) · (1 − (7.92 / 34.55)²) = 82.66. 2e-3: printed with three or four digits."""
    assert tuple(Bearing.named(name).inputs.values()) == pytest.approx(orders, rel=2e-3)


def test_the_orders_are_a_planetary_gears() -> None:
    """Rolling without slip between a sun of radius R − r and a ring of R + r (Willis): no formula is shared."""
    bearing = Bearing(balls=9, ratio=0.2)
    pitch, ball = 1.0, 0.2
    sun, ring = pitch - ball, pitch + ball
    carrier = sun / (sun + ring)  # of one turn of the sun, the ring held
    spin = (ring * carrier) / ball  # about its own axis, seen from the carrier: it rolls on the ring
    assert bearing.ftf == pytest.approx(carrier)
    assert bearing.bpfo == pytest.approx(9 * carrier)
    assert bearing.bpfi == pytest.approx(9 * (1 - carrier))
    assert bearing.bsf == pytest.approx(spin)


def test_a_contact_angle_acts_on_the_contact_and_not_on_the_ball() -> None:
    """At 60° half the ratio is left: n/2 · (1 ∓ d/2D), D/2d · (1 − (d/2D)²)."""
    bearing = Bearing(8, 0.4, 60.0)
    assert bearing.bpfo == pytest.approx(4 * 0.8)
    assert bearing.bpfi == pytest.approx(4 * 1.2)
    assert bearing.bsf == pytest.approx((1 - 0.04) / 0.8)
    assert bearing.ftf == pytest.approx(0.4)


@pytest.mark.parametrize("bearing", TABLE.values(), ids=list(TABLE))
def test_every_bearing_of_the_table_is_one(bearing: Bearing) -> None:
    """Balls do not overlap on their pitch circle; outer and inner passes are the balls of one turn."""
    assert bearing.ratio < math.sin(math.pi / bearing.balls)
    assert bearing.bpfo + bearing.bpfi == pytest.approx(bearing.balls, rel=1e-4)
    assert bearing.ftf * bearing.balls == pytest.approx(bearing.bpfo, rel=4e-4)


@pytest.mark.parametrize(
    "name", ["6205", "6205-2RS JEM", "SKF 6205-2RSH/C3", "skf6205", "FAG 6205.2ZR", "NSK6205ZZ", " 6205 C3 "]
)
def test_makers_and_suffixes_do_not_matter(name: str) -> None:
    assert Bearing.named(name) is TABLE["6205"]


@pytest.mark.parametrize(
    ("name", "near"), [("6206", "6205"), ("6207", "6205"), ("16205", "6205"), ("62050", "6205"), ("", "NICE")]
)
def test_another_bearing_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=r"is not in the table, where .*tell its dimensions") as raised:
        Bearing.named(name)
    assert near in str(raised.value) or not name


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((1, 0.2), "balls"),
        ((8.5, 0.2), "balls"),
        ((8, 0.0), "ratio"),
        ((8, 7.94), "ratio"),
        ((8, math.nan), "ratio"),
        ((8, 0.2, 90.0), "contact_angle"),
        ((8, 0.2, 0.0, (1.0, 2.0)), "published"),
    ],
)
def test_impossible_dimensions_are_refused(arguments: tuple[float, ...], what: str) -> None:
    with pytest.raises(UserError, match=rf"Bearing\.{what}: expected"):
        Bearing(*arguments)  # type: ignore[arg-type]
