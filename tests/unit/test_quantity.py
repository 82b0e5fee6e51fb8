# SPDX-License-Identifier: LGPL-2.1-or-later
"""Amounts: what people write, and what they read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.quantity import (
    NoLimit,
    Percent,
    QuantityError,
    format_duration,
    format_size,
    parse_amount,
)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1073741824", 1 << 30),
        ("600M", 600 << 20),
        ("600m", 600 << 20),
        (" 600 M ", 600 << 20),
        ("1.5G", 3 << 29),
        ("0.1K", 102),
        ("2KiB", 2048),
        ("2kb", 2048),
        ("7B", 7),
        ("3T", 3 << 40),
        ("60%", Percent(6000)),
        ("12.5 %", Percent(1250)),
        ("max", NoLimit.NO_LIMIT),
        ("infinity", NoLimit.NO_LIMIT),
    ],
)
def test_reads_what_systemd_and_people_write(text: str, amount: object) -> None:
    """Suffixes count in 1024, decimals are exact, 'max' is a word of its own."""
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", " ", "M", "12Q", "1..5G", "1.", "-1", "+1", "1e9", "0x10", "600MM", "600 M B", "%", "-5%", "٣M", "²", "1_000",
     "nan", "infinite", "9" * 41, "1" + "0" * 30 + "T", "iB", "5%%", "\x00", "1,5G"],
)  # fmt: skip
def test_refuses_anything_else_and_says_what_to_try(text: str) -> None:
    """A size that can't be meant is one line that ends in an example."""
    with pytest.raises(QuantityError, match=r"; try ") as caught:
        parse_amount(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=12))
def test_never_fails_otherwise(text: str) -> None:
    """Whatever is typed, the answer is an amount or a QuantityError."""
    try:
        amount = parse_amount(text)
    except QuantityError:
        return
    assert isinstance(amount, NoLimit | Percent) or amount >= 0


@given(st.integers(0, 1 << 62))
def test_plain_bytes_come_back(size: int) -> None:
    """Digits alone are bytes."""
    assert parse_amount(str(size)) == size


@pytest.mark.parametrize(
    ("percent", "total", "size"), [(Percent(6000), 1000, 600), (Percent(1), 1 << 30, 107374), (Percent(10000), 7, 7)]
)
def test_percent_of_a_total_rounds_down(percent: Percent, total: int, size: int) -> None:
    """A share never comes out above the whole."""
    assert percent.of(total) == size


@pytest.mark.parametrize(("percent", "text"), [(6000, "60%"), (1250, "12.5%"), (5, "0.05%"), (10000, "100%")])
def test_percent_is_shown_as_it_was_written(percent: int, text: str) -> None:
    """No trailing zeros."""
    assert str(Percent(percent)) == text
    assert parse_amount(text) == Percent(percent)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (600 << 20, "600.0M"),
        (3 << 29, "1.5G"),
        (-2048, "-2.0K"),
        (5 << 40, "5.0T"),
    ],
)
def test_sizes_are_shown_with_one_decimal(size: int, text: str) -> None:
    """As systemd prints them."""
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.414, "0.41 s"), (12.34, "12.3 s"), (59.94, "59.9 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")],
)
def test_durations_are_shown_with_the_figures_that_matter(seconds: float, text: str) -> None:
    """Hundredths below ten seconds, minutes above one."""
    assert format_duration(seconds) == text
