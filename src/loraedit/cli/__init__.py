"""The command line: one file per command, and the only place that turns an error into text and an exit code."""
