"""What the job app and its workers agree on."""

from uuid import UUID

from pydantic import BaseModel, Field

from fastapi_broadcaster import ChannelTemplate


class Progress(BaseModel):
    step: str
    percent: int = Field(ge=0, le=100)


jobs = ChannelTemplate("jobs.{job_id}.progress", Progress).bind(job_id=UUID)
