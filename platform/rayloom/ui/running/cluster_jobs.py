"""The jobs of a cluster, asked for at most every other second, however many pages look."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from rayloom.errors import RayloomError, unwrapped
from rayloom.submit.jobs_api import ClusterJob, JobsApi, token_here

SECONDS = 2.0
TAIL_CHARACTERS = 64_000


@dataclass
class ClusterJobs:
    """The jobs of one cluster, or why they are not known."""

    address: str
    jobs: list[ClusterJob] = field(default_factory=list)
    problem: str = ""
    _asked_at: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def api(self) -> JobsApi:
        return JobsApi(self.address, token_here())

    def refresh(self) -> ClusterJobs:
        """Asks again if it is time. Several pages at once wait for one answer."""
        with self._lock:
            if time.monotonic() - self._asked_at > SECONDS:
                try:
                    self.jobs, self.problem = self.api.jobs()[::-1], ""
                except (RayloomError, OSError) as error:
                    self.problem = str(unwrapped(error))
                self._asked_at = time.monotonic()
        return self

    def log(self, job: ClusterJob) -> str:
        """The end of its log."""
        return self.api.logs(job.id)[-TAIL_CHARACTERS:]
