"""`rayloom jobs list|status|logs|stop|retry`."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from rayloom.commands.output import console, emit_json, plain_table
from rayloom.errors import ResourceError
from rayloom.observe.progress import say
from rayloom.submit.jobs_api import ClusterJob
from rayloom.submit.local_cluster import cluster_api
from rayloom.submit.submission import STOP_GRACE_SECONDS
from rayloom.submit.submission import retry as retry_job

_STYLES = {"SUCCEEDED": "green", "FAILED": "red", "STOPPED": "yellow", "RUNNING": "bold", "PENDING": "dim"}


def list_jobs(options: argparse.Namespace) -> None:
    """Prints every job, newest last."""
    jobs = cluster_api(options.address).jobs()
    if options.json:
        emit_json([_facts(job) for job in jobs])
        return
    table = plain_table("job", "kind", "status", "started (UTC)", "took", "id")
    for job in jobs:
        facts = _facts(job)
        status = Text(job.status.lower(), style=_STYLES.get(job.status, ""))
        table.add_row(Text(job.name), facts["kind"], status, facts["started"], _took(facts["seconds"]), job.id)
    if jobs:
        console().print(table)
    else:
        say("No job was submitted to this cluster yet; `rayloom submit FILE` does it.")


def status(options: argparse.Namespace) -> int:
    """Prints one job. Returns 0 if it has not failed, else the exit code of its own command."""
    from rayloom.commands.cluster.submit import exit_code

    job = cluster_api(options.address).find(options.job)
    if options.json:
        emit_json(_facts(job))
        return exit_code(job)
    out = console()
    for name, value in _facts(job).items():
        if value not in ("", None):
            shown = _took(value) if name == "seconds" else value
            out.print(Text(f"{name:<10} ", style="bold").append(str(shown), style="not bold"))
    return exit_code(job)


def logs(options: argparse.Namespace) -> None:
    """Prints a job's log, and with `--follow` also what is added until the job ends."""
    api = cluster_api(options.address)
    job = api.find(options.job)
    if options.follow:
        from rayloom.commands.cluster.submit import follow

        follow(api, job)
    else:
        sys.stdout.write(api.logs(job.id))


def stop(options: argparse.Namespace) -> None:
    """Asks a job to save a checkpoint and end, and waits until it has ended."""
    api = cluster_api(options.address)
    job = api.find(options.job)
    if job.is_finished:
        say(f"{job.name} is {job.status.lower()} already")
        return
    api.stop(job.id)
    until = time.monotonic() + STOP_GRACE_SECONDS + 30
    while not api.find(job.id).is_finished:
        if time.monotonic() > until:
            raise ResourceError(f"{job.name} has not ended", where=job.id, fix="Look at `rayloom jobs logs`.")
        time.sleep(0.5)
    say(f"{job.name}: {api.find(job.id).status.lower()}; `rayloom jobs retry {job.name}` continues it")


def retry(options: argparse.Namespace) -> None:
    """Starts a new attempt, which resumes from what the previous one saved in the store."""
    api = cluster_api(options.address)
    started = retry_job(api, api.find(options.job))
    say(f"{started.name}: attempt {started.metadata.get('rayloom_attempt')} submitted as {started.id}")


def _facts(job: ClusterJob) -> dict[str, Any]:
    ended = job.ended_ms or int(time.time() * 1000)
    return {
        "name": job.name,
        "kind": job.metadata.get("rayloom_kind", ""),
        "file": job.metadata.get("rayloom_file", ""),
        "status": job.status,
        "attempt": job.metadata.get("rayloom_attempt", ""),
        "started": _moment(job.started_ms),
        "seconds": round((ended - job.started_ms) / 1000, 1) if job.started_ms else None,
        "reason": job.reason,
        "exit_code": job.exit_code,
        "store": job.runtime_env.get("env_vars", {}).get("RAYLOOM_STORE", ""),
        "id": job.id,
    }


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}" if milliseconds else ""


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
