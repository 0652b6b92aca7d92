"""Puts what stands beside the package in the repository, and is needed elsewhere too, into the wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# In the wheel they are `rayloom/jobs/` and `rayloom/cluster/`; a checkout and an editable install read the originals.
BESIDE = ("jobs/**/*.yaml", "jobs/**/*.md", "jobs/**/*.json", "jobs/**/*.py", "cluster/requirements-*.txt")


class BuildWithJobs(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for pattern in BESIDE:
            for source in Path().glob(pattern):
                target = Path(self.build_lib, "rayloom", source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithJobs})
