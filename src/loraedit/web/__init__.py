"""The web page. Each run is a child process that runs the command line."""

from loraedit.web.options import WebOptions

__all__ = ["WebOptions", "serve"]


def serve(options: WebOptions) -> None:
    """Serves the page until interrupted; continues the runs of an earlier server.

    Raises:
        InputError: a library is missing, the port or the folder is taken, or sharing has no password.
    """
    options.check()
    from loraedit.web.server import run_server  # needs the libraries of the extra "web"

    run_server(options)
