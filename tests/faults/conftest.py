"""What holds for every test of a fault."""

from tests.conformance.conftest import no_task_left

__all__ = ["no_task_left"]
