"""The version, from the installed package."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("loraedit")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
