"""A page for those who would rather point than type; every run on it is a child process of the command line."""

from loraedit.web.options import WebOptions, serve

__all__ = ["WebOptions", "serve"]
