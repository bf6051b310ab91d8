"""Results as JSON types."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """Return JSON types: tuples as lists, keys as strings, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
