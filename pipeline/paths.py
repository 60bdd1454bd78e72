"""Conversion of paths between bytes and text: UTF-8 in any locale, with surrogates for other bytes."""


def path_bytes(path: str) -> bytes:
    """The bytes of a path from `path_text`."""
    return path.encode("utf-8", "surrogateescape")


def path_text(path: bytes) -> str:
    """A path as text that `path_bytes` converts back."""
    return path.decode("utf-8", "surrogateescape")
