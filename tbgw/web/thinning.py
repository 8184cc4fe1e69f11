"""Fewer points for the same drawing. Pure."""

from __future__ import annotations

from typing import Any

Point = tuple[int, Any]


def thin(points: list[Point], limit: int) -> list[Point]:
    """
    At most `limit` of `points`, in order: of each stretch of equal number the least and the greatest, so that no spike
    is lost, and always the first and the last point. A stretch with a value that is no number gives its ends instead.
    """
    if len(points) <= limit or limit < 4:
        return points[-limit:] if limit else []
    inner = points[1:-1]
    stretches = (limit - 2) // 2
    kept = [points[0]]
    for number in range(stretches):
        stretch = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        if all(type(value) in (int, float) for _, value in stretch):
            low = min(range(len(stretch)), key=lambda i: stretch[i][1])
            high = max(range(len(stretch)), key=lambda i: stretch[i][1])
        else:
            low, high = 0, len(stretch) - 1
        kept.append(stretch[min(low, high)])
        if low != high:
            kept.append(stretch[max(low, high)])
    kept.append(points[-1])
    return kept
