"""Numbers as people read them: four significant digits, grouped thousands, a dash for what is not known."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

DASH = "–"
MINUS = "−"
SPACE = "\u00a0"
THIN_SPACE = "\u202f"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float) -> str:
    """A whole number with its thousands apart: ``12 345``."""
    if not math.isfinite(value):
        return _not_finite(value)
    if abs(value) >= 1e15:
        return amount(value)
    return f"{round(value):,}".replace(",", THIN_SPACE).replace("-", MINUS)


def amount(value: float, digits: int = 4) -> str:
    """A measured number with ``digits`` significant digits; powers of ten for very large and very small ones."""
    if not math.isfinite(value):
        return _not_finite(value)
    if value == 0:
        return "0"
    mantissa, _, written_exponent = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(written_exponent)
    if exponent < -4 or exponent > 6:
        short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{short}×10{power(exponent)}".replace("-", MINUS)
    rounded = float(f"{mantissa}e{exponent}")
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}".replace(",", THIN_SPACE).replace("-", MINUS)


def score(value: float) -> str:
    """A number around 0…1 with three decimals."""
    if not math.isfinite(value) or abs(value) >= 1000:
        return amount(value)
    return _signed(f"{value:.3f}")


def percent(value: float, decimals: int = 1) -> str:
    """A share as a percentage: 0.974 is ``97.4 %``."""
    if not math.isfinite(value):
        return _not_finite(value)
    if abs(value) >= 1e4:
        return f"{amount(100.0 * value)}{SPACE}%"
    return _signed(f"{100.0 * value:.{decimals}f}") + f"{SPACE}%"


def power(exponent: int) -> str:
    """An exponent in superscript digits."""
    return str(exponent).translate(_SUPERSCRIPT)


def duration(seconds: float) -> str:
    """A time span in the two units that matter: ``850 ms``, ``12.4 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return _not_finite(seconds)
    if seconds < 0.9995:
        return f"{amount(1000.0 * seconds, 3)}{SPACE}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{count(hours)}{SPACE}h {minutes}{SPACE}min"


def setting(value: Any) -> str:
    """A value of the configuration as text: numbers unrounded, truth as yes and no, lists with commas."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _not_finite(value) if not math.isfinite(value) else f"{value:g}".replace("-", MINUS)
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(entry) for entry in value) if value else "none"
    return str(value)


def text_width(text: str, size: float) -> float:
    """About how wide a sans-serif font of ``size`` draws ``text``; East Asian wide characters fill a square."""
    ems = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            ems += 1.0
        elif unicodedata.combining(character):
            continue
        elif character in "iljtfI.,:;|!'()[] ":
            ems += 0.33
        elif character in "mwMW@%":
            ems += 0.88
        else:
            ems += 0.65 if character.isupper() else 0.57
    return ems * size


def _signed(written: str) -> str:
    """With a true minus sign, and none at all before a number that was rounded to zero."""
    return written.lstrip("-") if not written.strip("-0.") else written.replace("-", MINUS)


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return DASH
    return "∞" if value > 0 else f"{MINUS}∞"
