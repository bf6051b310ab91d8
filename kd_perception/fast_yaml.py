"""
YAML at the speed of C, where that is safe.

Metadata of recordings with many splits and the manifests of bundles, which a node reads while it
serves, take tens of milliseconds in pure Python.
"""

from __future__ import annotations

from typing import Any

import yaml

# What is nested deeper is left to the loader that complains.
_DEPTH = 1000


def safe_loader(text: str) -> Any:
    """
    Return the class of the fastest safe loader that survives the text.

    The one written in C is more than ten times faster, but crashes on what is nested some ten
    thousand times; the other one raises RecursionError.
    """
    opened = text.count('[') + text.count('{')
    indented = max((len(line) - len(line.lstrip(' -?:')) for line in text.splitlines()), default=0)
    return (yaml.SafeLoader if opened + indented > _DEPTH
            else getattr(yaml, 'CSafeLoader', yaml.SafeLoader))


def load_yaml(text: str) -> Any:
    """
    Return what YAML says, in plain types.

    :raises yaml.YAMLError: when it is none; ``ValueError`` for an impossible value.
    :raises RecursionError: when it is nested too deep.
    """
    return yaml.load(text, safe_loader(text))  # noqa: S506 (both are safe ones)
