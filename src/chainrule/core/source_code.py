"""What of this package's own code something was made by, as a hash: it belongs to the key of whatever is kept between processes."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources


def code_digest(*packages: str) -> str:
    """A SHA-256 of the sources, in Python and in C, of these packages; packages inside them are not looked into."""
    return hashlib.sha256("".join(f"{package} {_digest(package)}\n" for package in packages).encode()).hexdigest()


@cache
def _digest(package: str) -> str:
    digest = hashlib.sha256()
    for file in sorted(resources.files(package).iterdir(), key=lambda file: file.name):
        if file.name.endswith((".py", ".c", ".h")):
            digest.update(f"{file.name}\n".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
