"""JSON lines come back as they were written, whatever breaks their texts hold."""

from __future__ import annotations

import json
from pathlib import Path

from rayloom.artifacts.files import read_json_lines

TEXT = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven\neight\r\nnine"


def test_breaks_inside_a_text_end_no_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"text": TEXT, "number": number} for number in range(3)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert list(read_json_lines(file)) == rows
