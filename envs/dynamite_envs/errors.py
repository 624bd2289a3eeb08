"""What a person can put right: bad input, in one line."""


class UserError(ValueError):
    """Input that can't be used; the message is one line with field, value and what is allowed.

    Commands print it without a traceback and end with exit code 2. Every other exception is a bug and traces.
    """


class FallbackWarning(UserWarning):
    """What was asked for can't be had here, and something else that does the same is used."""
