"""The exceptions of loraedit.

A message says what is wrong, what was expected, and how to fix it. Only the command line (``loraedit.cli``) turns an
exception into text and an exit code.
"""

__all__ = [
    "CacheError",
    "InputError",
    "LoraEditError",
    "ModelError",
    "ShapeError",
    "ended_by_signal",
    "explain",
]


class LoraEditError(Exception):
    """The base class of all exceptions of loraedit."""


class InputError(LoraEditError):
    """A file, a value or an option of the user is not valid."""


class ShapeError(InputError):
    """Two inputs differ in their number of frames, height or width."""


class ModelError(LoraEditError):
    """A checkpoint is missing, damaged, or not supported."""


class CacheError(LoraEditError):
    """A cached file of a run folder is damaged."""


def explain(error: BaseException) -> str | None:
    """Returns the message for the user; None if the exception is a bug."""
    if isinstance(error, LoraEditError):
        return str(error)
    if (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    ):  # the one of torch, which is not imported here
        return "The memory is full. Use a smaller or shorter clip, a lower --vram, or another --device."
    if isinstance(error, OSError):
        return f"{error}. Fix this and run the same command again to continue."
    return None


def ended_by_signal(code: int) -> str:
    """Returns the message about a process that was killed.

    Args:
        code: the number of the signal.
    """
    return f"The run was killed (signal {code}). The memory of the machine may be full; try to continue the run."
