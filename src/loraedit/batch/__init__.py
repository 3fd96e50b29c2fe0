"""Many edits: on one machine with one job per device, or on a Ray cluster.

    entries   the contents of jobs.toml                jobs     jobs with absolute paths, groups and keys
    check     checks every job before any runs         places   inputs and results in folders or behind URLs
    schedule  order of jobs; lost jobs come back       work     one job: fetch, edit, measure, upload
    local     worker processes of this machine         cluster  workers of a Ray cluster
    board     state of the batch, and its tables       page     the index with pictures
    run       from the file to the results

A batch keeps its whole state in its folder, so the same command continues it.
"""

from loraedit.batch.run import BatchResult, run_batch

__all__ = ["BatchResult", "run_batch"]
