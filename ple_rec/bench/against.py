"""`--against FILE`: a result beside an earlier one, and whether the difference is more than noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ple_rec.errors import UserError
from ple_rec.text import aligned

# Arguments that change where or how often something is measured, and not what.
FREE = frozenset({"against", "json", "repeats", "work", "out"})
_REPEATS = frozenset({"repeats", "turns"})  # settings that say how often

Results = Mapping[str, Any]


def read_earlier(path: Path, subject: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` printed, before anything is measured.

    Args:
        path: Of the file.
        subject: That is to be measured now.
        arguments: Its arguments, as of `arguments_of`.

    Raises:
        UserError: no such result, or one of something else.
    """
    where = f"--against {path}"
    again = f"give a file that `ple-rec bench {subject} --json` printed"
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(where, error.strerror or str(error), "it is read before anything is measured", again) from error
    except ValueError as error:
        raise UserError(where, f"no JSON ({error})", "results are compared by their JSON", again) from error
    if not isinstance(earlier, dict) or not isinstance(earlier.get("values"), dict) or "arguments" not in earlier:
        raise UserError(where, "JSON of something else", "a result has `subject`, `arguments` and `values`", again)
    if earlier.get("subject") != subject:
        raise UserError(
            where, f"a result of {earlier.get('subject')!r}, not of {subject!r}", "they measure different things", again
        )
    if differs := _differences(earlier["arguments"], arguments):
        raise UserError(
            where,
            f"measured with {', '.join(f'{_flag(name)} {then!r}, not {now!r}' for name, then, now in differs)}",
            "results are compared where the same was asked for",
            "give the flags that it was measured with, or another file",
        )
    return earlier


def arguments_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """Of a subject's parsed arguments those that say what is measured, as JSON has them."""
    plain = (str, int, float, bool, list, type(None), Path)
    kept = {k: v for k, v in args.items() if isinstance(v, plain) and k not in FREE | {"verb", "subject"}}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def compare(earlier: Results, now: Results) -> list[str]:
    """A table of all values that both have, and what may explain a difference.

    Args:
        earlier: As `read_earlier` gives it.
        now: With `values`, `spreads`, `data` and `conditions`.
    """
    lines: list[tuple[str, ...]] = [("", "before", "now", "ratio", "noise", "")]
    for name, value in now["values"].items():
        if (old := earlier["values"].get(name)) is None:
            continue
        ratio = value / old if old else None
        noise = noise_of(earlier.get("spreads", {}).get(name), now["spreads"].get(name))
        shown = ("-" if ratio is None else f"{ratio:.3f}", "-" if noise is None else f"{noise:.3f}")
        lines.append((name, short(old), short(value), *shown, verdict(ratio, noise)))
    missing = sorted(set(earlier["values"]) ^ set(now["values"]))
    return [
        *aligned(lines, left=(0, 5)),
        *([f"only one of both has {', '.join(missing)}"] if missing else []),
        *remarks(earlier, now),
    ]


def noise_of(*spreads: list[float] | None) -> float | None:
    """The greatest `most / least` of the repeats; None where neither was measured more than once."""
    found = [high / low for low, high in (spread for spread in spreads if spread) if low > 0]
    return max(found) if found else None


def verdict(ratio: float | None, noise: float | None) -> str:
    """What a ratio means: nothing, where the repeats differ by more."""
    if ratio is None or ratio <= 0:
        return ""
    if ratio == 1:
        return "the same"
    if noise is None:
        return "measured once"
    return "within the noise" if max(ratio, 1 / ratio) <= noise else "more than the noise"


def remarks(earlier: Results, now: Results) -> list[str]:
    """Warnings: another machine, other data, or settings that were found and not asked for."""
    then, here = earlier.get("conditions", {}), now["conditions"]
    told = [
        f"WARNING: {what} then: {then.get(key)}, now: {here.get(key)}; a ratio says nothing of the program"
        for key, what in (("cpu", "processor"), ("cores", "cores"))
        if then.get(key) != here.get(key)
    ]
    for part in ("data", "settings"):
        both = ({k: v for k, v in of.get(part, {}).items() if k not in _REPEATS} for of in (earlier, now))
        told += [f"WARNING: {part} differ: {name} {a!r} then, {b!r} now" for name, a, b in _differences(*both)]
    return told


def short(value: float) -> str:
    """Four digits at least."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = [*now, *(name for name in then if name not in now)]
    return [(name, then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
