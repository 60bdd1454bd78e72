"""The error that every program reports in one line."""


class UserError(Exception):
    """An error that the user can fix; the message is one clear sentence, and nothing else is printed."""
