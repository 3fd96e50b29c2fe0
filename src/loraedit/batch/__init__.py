"""Many edits: on one machine a job a device, or on a Ray cluster.

    jobs      jobs.toml -> jobs, checked               places   inputs and results in folders or behind URLs
    schedule  which job next; what was lost comes back work     one job: fetch, edit, measure, put back
    local     worker processes of this machine         cluster  workers of a Ray cluster
    board     how it stands, and the tables of it      page     the index with pictures
    run       from the file to the results

All that is known of a batch is in its folder, so the same command again goes on from there.
"""

from loraedit.batch.run import BatchResult, run_batch

__all__ = ["BatchResult", "run_batch"]
