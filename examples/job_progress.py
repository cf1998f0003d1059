"""The progress of jobs that other processes work on.

export BROADCASTER_URL=redis://localhost:6379
uvicorn examples.job_progress:app
curl -N localhost:8000/jobs/7b1e5f0a-58a3-4d9f-9d3e-0d5c2f0f1a11/progress
python -m examples.job_worker 7b1e5f0a-58a3-4d9f-9d3e-0d5c2f0f1a11
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI

from examples.job_channels import Progress, jobs
from fastapi_broadcaster import Broadcaster, EventStreamResponse, Subscriber, subscriber

broadcaster = Broadcaster(os.environ.get("BROADCASTER_URL", "redis://localhost:6379"))
app = FastAPI(title="Jobs", lifespan=broadcaster.lifespan)
JobProgress = Annotated[
    Subscriber[Progress], Depends(subscriber(jobs, latest=broadcaster.has_history))
]


@app.get("/jobs/{job_id}/progress", response_class=EventStreamResponse)
async def follow(progress: JobProgress) -> EventStreamResponse:
    return EventStreamResponse(progress, until=lambda progress: progress.percent == 100)
