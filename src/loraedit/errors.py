"""The errors that loraedit raises, one tree.

Every message is one or more plain sentences: what is wrong, what was expected, and how to mend it.
Only the applications (``loraedit.cli``) turn an error into text and an exit code.
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
    """Base of every error that loraedit raises on purpose."""


class InputError(LoraEditError):
    """The user gave something that cannot be used: a file, a value, an option."""


class ShapeError(InputError):
    """Two inputs do not fit together: frame counts, heights or widths differ."""


class ModelError(LoraEditError):
    """A checkpoint is missing, damaged, or not a model that loraedit can edit with."""


class CacheError(LoraEditError):
    """A cached file in a run folder does not hold what it should."""


def explain(error: BaseException) -> str | None:
    """What a person is told of an error; None if it is none that can be expected, but a mistake in the program."""
    if isinstance(error, LoraEditError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, not imported
        return "out of memory. Use a smaller or shorter clip, or another --device."
    if isinstance(error, OSError):
        return f"{error}. Mend it and run the same command again to continue."
    return None


def ended_by_signal(code: int) -> str:
    """What a person is told of a process that was killed.

    Args:
        code: the number of the signal.
    """
    return f"The run was ended from outside (signal {code}); the machine may be out of memory. Try to continue it."
