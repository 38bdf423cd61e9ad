"""One generated source as several, which are compiled at the same time: compilers use one processor each.

The functions of loop nests and of tiles take nearly all of the time and need nothing but each other's names, so they are dealt
out; everything else stays in the first part. How a source is cut depends on nothing but its text.
"""

from __future__ import annotations

import re

# Reading what every part begins with takes a compiler as long as compiling some 4000 characters of loop nests.
_PART = 16_000
_MOST_PARTS = 24

_NEST = re.compile(
    r"^(?:/\*(?:(?!\*/)[\s\S])*\*/\n)?static (?P<head>void (?:nest|tile)_\w+\([^()]*\)) \{\n(?:(?!\}).*\n)*\}\n",
    re.MULTILINE,
)
_HIDDEN = '__attribute__((visibility("hidden"))) '


def parts_of(source: str) -> list[str]:
    """The source in one part, if it is small, or in several; ``CR_PART`` is to be defined before all parts but the first."""
    nests = list(_NEST.finditer(source))
    count = min(_MOST_PARTS, len(nests), sum(len(nest.group()) for nest in nests) // _PART)
    if count < 2:
        return [source]
    head = source[: nests[0].start()]
    if "CR_EXPORT" in head:
        return [source]  # what is seen from outside is there once
    head += "".join(f"{_HIDDEN}{nest['head']};\n" for nest in nests)
    rest, end = [], nests[0].start()
    for nest in nests:
        rest.append(source[end : nest.start()])
        end = nest.end()
    parts = [[head, *rest, source[end:]], *([head] for _ in range(count))]
    sizes = [0] * count
    for nest in sorted(nests, key=lambda nest: (-len(nest.group()), nest.start())):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(nest.group())
        start = nest.start("head") - nest.start() - len("static ")
        parts[1 + smallest].append("\n" + nest.group()[:start] + nest.group()[start + len("static ") :])
    return ["".join(part) for part in parts]
