"""Named colors of pages, plots and pictures, distinguishable with any color vision (after Okabe and Ito)."""

LIGHT = {
    **{"ink": "#1b2127", "soft": "#626d78", "line": "#dfe4e8", "wash": "#f3f5f7", "paper": "#ffffff"},
    **{"blue": "#0a6fb5", "orange": "#d98a00", "green": "#00936b", "purple": "#7a5fb0", "red": "#c2410c"},
    "gray": "#8a949e",
}
"""Text, secondary text, lines, surfaces and background; then the colors with a meaning."""

DARK = {
    **{"ink": "#e4e8ec", "soft": "#98a3ae", "line": "#2f363d", "wash": "#1d2329", "paper": "#14181c"},
    **{"blue": "#4aa8e8", "orange": "#f0aa2e", "green": "#2fc596", "purple": "#a58ee0", "red": "#f0764a"},
    "gray": "#7d8791",
}

ROLES = {"past": "blue", "current": "orange", "future": "green"}
"""Color of each frame of a triplet."""

_SERIES = ("blue", "orange", "green", "purple", "red", "gray")


def series(number: int) -> str:
    """Name of the color of curve `number`; colors repeat after the last one."""
    return _SERIES[number % len(_SERIES)]
