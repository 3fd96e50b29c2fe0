"""The errors that loraedit raises, one tree.

Every message is one or more plain sentences: what is wrong, what was expected, and how to mend it.
Only the applications (``loraedit.app``) turn an error into text and an exit code.
"""

__all__ = ["CacheError", "InputError", "LoraEditError", "ModelError", "ShapeError"]


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
