"""A worker that has no event loop and no app: see job_progress.py."""

import os
import sys
import time
from uuid import UUID

from examples.job_channels import Progress, jobs
from fastapi_broadcaster import Broadcaster


def work(job_id: UUID, broadcaster: Broadcaster) -> None:
    job = broadcaster.channel(jobs, job_id=job_id)
    for percent, step in enumerate(["reading", "resizing", "writing", "tidying up"]):
        job.publish_sync(Progress(step=step, percent=percent * 25))
        time.sleep(0.05)
    job.publish_sync(Progress(step="done", percent=100))


if __name__ == "__main__":
    url = os.environ.get("BROADCASTER_URL", "redis://localhost:6379")
    work(UUID(sys.argv[1]), Broadcaster(url))
