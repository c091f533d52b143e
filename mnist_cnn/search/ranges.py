"""The ranges of a search, in Hydra's sweep syntax.

For example: `interval(0.1,1)`, `range(1,10)`, `a,b,c`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from mnist_cnn import compose
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import full_key, keys_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.override_parser.types import Override

MANY = "a range needs two values or more"


@dataclasses.dataclass(frozen=True)
class Range:
    """A key's values that a search may choose.

    They are `choices`, or the numbers from `low` to `high`. `text` is the override that a user wrote. The
    numbers are whole if `low` is; they have a distance of `step`, if it isn't None. If `is_log`, their
    logarithms are equally likely.
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    is_log: bool = False

    def ends(self) -> tuple[str, ...]:
        """Return all choices, or low and high, as overrides."""
        values = self.choices or (self.low, self.high)
        return tuple(f"{self.key}={value}" for value in values)

    @property
    def count(self) -> int | None:
        """How many values there are, or None if endless."""
        if self.choices:
            return len(self.choices)
        if self.step is None and not isinstance(self.low, int):
            return None
        return round((self.high - self.low) / (self.step or 1)) + 1

    def after(self, value: Any) -> Any:
        """Return the value after this one, or None after the last."""
        if self.choices:
            return next(iter(self.choices[self.choices.index(value) + 1 :]), None)
        step = self.step or 1
        following = self.low + (round((value - self.low) / step) + 1) * step
        return min(following, self.high) if following < self.high + step / 2 else None

    @property
    def first(self) -> Any:
        return self.choices[0] if self.choices else self.low


def split(
    overrides: Sequence[str], config_dirs: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[Range, ...]]:
    """Split overrides into fixed ones and ranges.

    Fixed ones have one value; ranges are in Hydra's sweep syntax. Raises ConfigurationError if an override
    cannot be parsed, or a range holds less than two values.
    """
    parsed = compose.parse_sweeps(overrides)
    fixed = tuple(str(override.input_line) for override in parsed if not override.is_sweep_override())
    return fixed, tuple(_range(override, config_dirs) for override in parsed if override.is_sweep_override())


def combinations(ranges: Sequence[Range]) -> int | None:
    """Return how many combinations there are, or None if endless."""
    counts = [each.count for each in ranges]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def _range(override: Override, config_dirs: Sequence[str]) -> Range:
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    sweep, text = override.value(), str(override.input_line)
    tags = sweep.tags if isinstance(sweep, IntervalSweep | RangeSweep) else set()
    if tags - {"log"}:
        raise ConfigurationError(f"{text}: the only tag is log", "for example tag(log, interval(0.001, 0.1))")
    found = Range(override.key_or_group, text, is_log="log" in tags)
    if isinstance(sweep, IntervalSweep):
        low, high = (0.0 if number is None else number for number in (sweep.start, sweep.end))
        compose.check_finite(override, (low, high))
        if _is_whole(found.key):
            low, high = math.ceil(low), math.floor(high)
        found = dataclasses.replace(found, low=low, high=high)
    elif isinstance(sweep, RangeSweep):
        low, high, step = _bounds_of(override)
        found = dataclasses.replace(found, low=low, high=high, step=None if found.is_log else step)
    else:
        found = dataclasses.replace(
            found, choices=tuple(dict.fromkeys(compose.swept_values(override, config_dirs)))
        )
    if len(found.choices) == 1 or (not found.choices and not found.low < found.high):
        values = "one value" if found.choices or found.low == found.high else "no values"
        raise ConfigurationError(f"{text}: this range holds {values}", MANY)
    if found.is_log and found.low <= 0:
        raise ConfigurationError(f"{text}: a logarithmic range begins above 0", "raise its first number")
    return found


def _bounds_of(override: Override) -> tuple[float, float, float]:
    """Return a range's least and largest number, and step.

    Raises ConfigurationError if it holds none, or is not valid.
    """
    sweep: Any = override.value()
    start, step, count = compose.range_of(override)
    if count < 1:
        raise ConfigurationError(f"{override.input_line}: this range holds no values", MANY)
    is_whole = all(isinstance(value, int) for value in (sweep.start, sweep.stop, sweep.step))
    number = int if is_whole else float
    low, high = sorted((start, start + (count - 1) * step))
    return number(low), number(high), number(abs(step))


def _is_whole(key: str) -> bool:
    """Return whether a key takes whole numbers only."""
    for section in compose.SECTIONS:
        for name, _ in keys_of(section):
            if full_key(section, name) == key:
                kind = get_type_hints(section)[name]
                return int in (get_args(kind) or (kind,))
    return False
