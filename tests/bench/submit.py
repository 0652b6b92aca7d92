"""How long a person waits: `rayloom submit` to the job's first line, and `rayloom jobs list` with a hundred jobs.

On a local cluster of two nodes that has run one job of this code before. Prints, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hardware import hardware
from results_file import save

from rayloom.submit.jobs_api import JobsApi
from rayloom.submit.local_cluster import down, up
from rayloom.submit.local_node import Shape

JOB = "kind: import\nname: job-{}\nsource: {{type: folder, path: ./pages}}\ncontent: {{type: dataset}}\nlicence: MIT\n"
NUM_JOBS, AT_ONCE = 100, 4
OF_RAY = ("Runtime env is setting up", "Running entrypoint for job")
"""Lines of Ray's before the job itself says anything."""
PORT, DASHBOARD_PORT = 6433, 8295


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYLOOM_CACHE"], os.environ["RAYLOOM_STORE"] = f"{folder}/cache", f"{folder}/store"
        (Path(folder) / "pages").mkdir()
        (Path(folder) / "pages" / "a.jsonl").write_text('{"text": "one"}\n')
        cluster = up(Shape(2, 4, PORT, DASHBOARD_PORT))
        try:
            first_lines = [_to_first_line(Path(folder), number) for number in range(options.rounds + 1)][1:]
            _fill(cluster.api())
            lists = [_list(Path(folder)) for _ in range(options.rounds)]
        finally:
            down()
    result = {
        "submit_to_first_line_seconds": round(statistics.median(first_lines), 2),
        "submit_to_first_line_seconds_all": [round(seconds, 2) for seconds in first_lines],
        "jobs_list_seconds": round(statistics.median(lists), 2),
        "jobs_list_seconds_all": [round(seconds, 2) for seconds in lists],
        "num_jobs": NUM_JOBS,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if options.save:
        save("submit", result)
    print(json.dumps(result))


def _to_first_line(folder: Path, number: int) -> float:
    """From the command's start to the first line that the job itself wrote, as the person sees it."""
    (folder / f"{number}.yaml").write_text(JOB.format(number))
    began = time.monotonic()
    command = [sys.executable, "-m", "rayloom", "submit", f"{number}.yaml", "--follow"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = next(line for line in running.stdout if not any(words in line for words in OF_RAY))
        seconds = time.monotonic() - began
        running.stdout.read()
    assert running.returncode == 0, said
    return seconds


def _fill(api: JobsApi) -> None:
    """As many jobs as the list is measured with, all ended."""
    for number in range(NUM_JOBS - len(api.jobs())):
        while sum(not job.is_finished for job in api.jobs()) >= AT_ONCE:
            time.sleep(0.2)
        api.submit({"submission_id": f"filler-{number}", "entrypoint": "true", "entrypoint_num_cpus": 1})
    while not all(job.is_finished for job in api.jobs()):
        time.sleep(0.2)
    assert len(api.jobs()) == NUM_JOBS


def _list(folder: Path) -> float:
    began = time.monotonic()
    command = [sys.executable, "-m", "rayloom", "jobs", "list"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert said.count("succeeded") == NUM_JOBS, said
    return time.monotonic() - began


if __name__ == "__main__":
    main()
