"""Finds the version of the installed package, and of the libraries on which the bytes of a result depend."""

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__", "versions"]

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "opencv-python-headless", "av")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout that was never installed, or is installed under another name
        return "0+unknown"


__version__ = _installed("loraedit")


def versions() -> dict[str, str]:
    """Returns the version of everything that a result depends on, by name."""
    return {
        "loraedit": __version__, "python": platform.python_version(), **{name: _installed(name) for name in LIBRARIES}
    }  # fmt: skip
