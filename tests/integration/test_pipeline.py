"""A pipeline whose stages run beside each other on one embedded cluster, and one of whose gates is not passed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rayloom.artifacts.store import Store
from rayloom.errors import QualityError

IMPORT = "kind: import\nname: {}\nsource: {{type: folder, path: ./pages}}\ncontent: {{type: dataset}}\nlicence: MIT\n"
CLEAN = """\
kind: clean
name: {name}
sources: [{{name: pages, dataset: artifact:{dataset}, format: {{type: jsonl}}, domain: web}}]
rules: {{repetition: null, gopher: {{min_words: {min_words}}}}}
deduplication: null
output: {{type: tokens, tokenizer: {{type: train, vocabulary_size: 300}}, heldout_share: 0.3}}
"""
PIPELINE = """\
kind: pipeline
name: chain
max_parallel_stages: 2
stages:
  - {name: pages, job: pages.yaml}
  - {name: letters, job: letters.yaml}
  - {name: strict, job: strict.yaml, needs: [pages]}
  - {name: corpus, job: corpus.yaml, needs: [letters]}
  - {name: later, job: later.yaml, needs: [strict]}
"""
SENTENCE = "the boat crosses a river and that lamp of the street finds the winter with a letter to be read"


def test_a_gate_stops_its_branch_and_the_other_one_is_finished(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    words = SENTENCE.split()
    rows = [" ".join(words[(n + k * (n + 3)) % len(words)] for k in range(60 + n)) for n in range(40)]
    (tmp_path / "pages" / "a.jsonl").write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    for name in ("pages", "letters", "later"):
        (tmp_path / f"{name}.yaml").write_text(IMPORT.format(name))
    (tmp_path / "strict.yaml").write_text(CLEAN.format(name="strict", dataset="pages", min_words=5000))
    (tmp_path / "corpus.yaml").write_text(CLEAN.format(name="corpus", dataset="letters", min_words=50))
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)

    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY")}
    ended = subprocess.run(
        [sys.executable, "-m", "rayloom", "run", "pipeline.yaml"],
        cwd=tmp_path,
        env={**kept, "RAYLOOM_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        check=False,
    )
    said = ended.stderr
    assert ended.returncode == QualityError.exit_code, said
    assert Store(str(tmp_path / "store")).names() == ["corpus", "letters", "pages", "strict"]
    assert Store(str(tmp_path / "store")).versions("strict") == []
    assert Store(str(tmp_path / "store")).resolve("corpus").content == "corpus"
    rows_of = {line.split("│")[1].strip(): line for line in said.splitlines() if line.count("│") == 5}
    assert "not good enough" in rows_of["strict"]
    assert "No document is left of 40" in rows_of["strict"]
    assert "needs strict, which is not good enough" in rows_of["later"]
    assert "corpus@" in rows_of["corpus"]
    assert "error: No document is left of 40" in said
