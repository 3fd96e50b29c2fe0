"""The applications: thin, and the only place where an error becomes text and an exit code."""
