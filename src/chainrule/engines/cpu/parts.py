"""One generated source as several, which are compiled at the same time: compilers use one processor each.

The functions of loop nests take nearly all of the time and know nothing of each other, so they are dealt out; everything else stays
in the first part. How a source is cut depends on nothing but its text.
"""

from __future__ import annotations

import re

# Reading what every part begins with takes a compiler as long as compiling some 4000 characters of loop nests.
PART = 32_000
# Besides the first part, which takes as long as one of them where there are loops: four processors have one each.
_FEWEST_PARTS, _MOST_PARTS = 3, 24

_BODY = r"\{\n(?:(?!\}).*\n)*\}\n"
# Functions that are dealt out: of loop nests, and of the tiles that they share.
_DEALT = re.compile(
    r"^(?:/\*(?:(?!\*/)[\s\S])*\*/\n)?static "
    r"(?P<head>(?:__attribute__\(\(noinline\)\) |CR_ALONE )?(?:void|float|double) (?:nest|tile)_\w+\([^()]*\)) "
    + _BODY,
    re.MULTILINE,
)
# Types and small functions that are written where they are first needed.
_SHARED = re.compile(
    r"^(?:typedef [^;{}]*;\n|static (?:inline )?__attribute__\(\(unused\)\) [^{};]*" + _BODY + ")", re.MULTILINE
)
_HIDDEN = '__attribute__((visibility("hidden"))) '


def parts_of(source: str) -> list[str]:
    """The source in one part, if it is small, or in several; ``CR_PART`` is to be defined before all parts but the first."""
    dealt = list(_DEALT.finditer(source))
    count = sum(len(found.group()) for found in dealt) // PART
    if min(count, len(dealt)) < 2:
        return [source]
    count = min(max(count, _FEWEST_PARTS), _MOST_PARTS, len(dealt))
    head = source[: dealt[0].start()]
    if "CR_EXPORT" in head:
        return [source]  # what is seen from outside is there once
    rest, end = [], dealt[0].start()
    for found in dealt:
        rest.append(source[end : found.start()])
        end = found.end()
    between = "".join([*rest, source[end:]])
    head += "".join(found.group() for found in _SHARED.finditer(between))
    head += "".join(f"{_HIDDEN}{found['head']};\n" for found in dealt)
    parts = [[head, _SHARED.sub("", between)], *([head] for _ in range(count))]
    sizes = [0] * count
    for found in sorted(dealt, key=lambda found: (-len(found.group()), found.start())):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(found.group())
        start = found.start("head") - found.start() - len("static ")
        parts[1 + smallest].append("\n" + found.group()[:start] + found.group()[start + len("static ") :])
    return ["".join(part) for part in parts]
