"""Paths as bytes and as text: always UTF-8, whatever the locale; other bytes are surrogates."""


def path_bytes(path: str) -> bytes:
    """The bytes of a path that `path_text` made."""
    return path.encode("utf-8", "surrogateescape")


def path_text(path: bytes) -> str:
    """A path as text, from which its bytes can be had again."""
    return path.decode("utf-8", "surrogateescape")
