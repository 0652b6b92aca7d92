"""The commands on a real store: made by a real import of a folder, listed, shown, verified, reported, removed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rayloom.artifacts.build import build
from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.store import Artifact, Store
from rayloom.cli import main
from rayloom.commands.shipped import templates
from rayloom.kinds import SPECS

JOB = """
kind: import
name: pages
source: {type: folder, path: ./pages}
content: {type: dataset}
licence: CC-BY-4.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job file, its data and a store, in which the commands are called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "store"))
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "import.yaml").write_text(JOB)
    return tmp_path


@pytest.fixture
def imported(folder: Path, capfd: pytest.CaptureFixture[str]) -> Artifact:
    assert main(["run", "import.yaml"]) == 0
    capfd.readouterr()
    store = Store(str(folder / "store"))
    return store.open(store.resolve("pages"))


def answer(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capfd.readouterr()
    assert main(arguments) == code
    return capfd.readouterr().out


def complaint(capfd: pytest.CaptureFixture[str], *arguments: str, code: int) -> str:
    capfd.readouterr()
    assert main(arguments) == code
    return capfd.readouterr().err


def test_a_job_runs_once_and_then_says_that_it_was_finished(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "made: " in complaint(capfd, "run", "import.yaml", code=0)
    assert "was finished already: " in complaint(capfd, "run", "import.yaml", code=0)
    (folder / "pages" / "a.jsonl").write_text('{"text": "changed"}\n')
    assert "made: " in complaint(capfd, "run", "import.yaml", code=0)


def test_list_shows_the_current_versions_and_on_request_all(
    folder: Path, imported: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "pages" / "b.jsonl").write_text("{}\n")
    assert main(["run", "import.yaml"]) == 0
    shown = answer(capfd, "artifacts", "list")
    assert imported.id not in shown
    assert re.search(r"pages@\w{12}\s+import\s+dataset", shown)
    assert imported.id in answer(capfd, "artifacts", "list", "--all")
    assert imported.id in answer(capfd, "artifacts", "list", "pages")
    facts = json.loads(answer(capfd, "artifacts", "list", "--all", "--json"))
    assert [fact["is_current"] for fact in facts] == [False, True]
    assert complaint(capfd, "artifacts", "list", "other", code=3).startswith("error: There is no artifact other")


def test_an_empty_store_says_what_fills_it(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "`rayloom run FILE` makes one" in complaint(capfd, "artifacts", "list", code=0)


def test_a_damaged_artifact_is_listed_beside_the_whole_ones(
    folder: Path, imported: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "store" / "broken" / "0123456789ab").mkdir(parents=True)
    (folder / "store" / "broken" / "0123456789ab" / "manifest.json").write_text("{")
    assert main(["artifacts", "list"]) == 3
    said = capfd.readouterr()
    assert imported.id in said.out
    assert "manifest of broken@0123456789ab is damaged" in said.err
    assert "is damaged" in answer(capfd, "artifacts", "verify", code=3)
    assert "Removed" in complaint(capfd, "artifacts", "gc", "broken@0123456789ab", "--delete", code=0)
    assert main(["artifacts", "list"]) == 0


def test_show_prints_everything_that_the_manifest_says(imported: Artifact, capfd: pytest.CaptureFixture[str]) -> None:
    shown = answer(capfd, "artifacts", "show", "pages")
    assert imported.manifest.digest in shown
    assert imported.manifest.files[0].sha256 in shown
    assert "CC-BY-4.0" in shown
    assert "source.type" in shown
    facts = json.loads(answer(capfd, "artifacts", "show", "pages", "--json"))
    assert facts["digest"] == imported.manifest.digest
    assert facts["spec"]["source"] == {"type": "folder", "path": "./pages"}


def child_of(parent: Artifact, store: Store) -> Artifact:
    from support.artifacts import note, write_note

    return build(note(name="child", parents={"base": parent}), store, write_note)[0]


def test_lineage_goes_back_to_the_sources_with_licences_and_digests(
    folder: Path, imported: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    child = child_of(imported, Store(str(folder / "store")))
    shown = answer(capfd, "artifacts", "lineage", "child")
    first, second = shown.splitlines()
    assert first.startswith(child.id)
    for part in (imported.id, "base", f"sha256:{imported.manifest.digest[:12]}", "CC-BY-4.0", "from ./pages"):
        assert part in second
    tree = json.loads(answer(capfd, "artifacts", "lineage", "child", "--json"))
    assert tree["parents"][0]["digest"] == imported.manifest.digest


def test_lineage_says_where_an_ancestor_has_gone(
    folder: Path, imported: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    child_of(imported, Store(str(folder / "store")))
    assert "Others were made from" in complaint(capfd, "artifacts", "gc", imported.id, code=3)
    assert "Would remove" in complaint(capfd, "artifacts", "gc", imported.id, "--force", code=0)
    assert imported.path.exists()
    assert "Removed" in complaint(capfd, "artifacts", "gc", imported.id, "--force", "--delete", code=0)
    assert not imported.path.exists()
    assert "no longer in the store" in answer(capfd, "artifacts", "lineage", "child")


def test_an_artifact_may_go_together_with_those_made_from_it(
    folder: Path, imported: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    child = child_of(imported, Store(str(folder / "store")))
    removed = json.loads(answer(capfd, "artifacts", "gc", imported.id, child.id, "--delete", "--json"))
    assert {entry["id"] for entry in removed} == {imported.id, child.id}
    assert list(Store(str(folder / "store")).manifests()) == []


@pytest.mark.parametrize("reference", ["pages", "pages@", "pages@ffff", "other@0123", "../pages@0123"])
def test_only_named_versions_can_be_removed(
    reference: str, imported: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "artifacts list --all" in complaint(capfd, "artifacts", "gc", reference, "--delete", code=3)
    assert imported.path.exists()


def test_what_killed_runs_left_is_removed_but_not_what_is_being_made(
    folder: Path, imported: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    for version in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        (folder / "store" / "pages" / version / ".work").mkdir(parents=True)
        (folder / "store" / "pages" / version / ".work" / "state").write_text("x" * 1000)
    with exclusive(folder / "store" / "pages" / ".bbbbbbbbbbbb.lock"):
        (shown,) = json.loads(answer(capfd, "artifacts", "gc", "--json"))
        assert shown == {"id": "pages@aaaaaaaaaaaa", "reason": "unfinished", "size_bytes": 1000, "removed": False}
        assert "Removed 1.0 kB" in complaint(capfd, "artifacts", "gc", "--delete", code=0)
    assert (folder / "store" / "pages" / "bbbbbbbbbbbb" / ".work" / "state").exists()
    assert not (folder / "store" / "pages" / "aaaaaaaaaaaa").exists()
    assert imported.path.exists()


def test_verify_finds_a_changed_byte(folder: Path, imported: Artifact, capfd: pytest.CaptureFixture[str]) -> None:
    assert answer(capfd, "artifacts", "verify") == f"{imported.id}: whole\n"
    file = imported.path / imported.manifest.files[0].path
    file.write_bytes(file.read_bytes().replace(b"one", b"two"))
    assert "a.jsonl has changed" in answer(capfd, "artifacts", "verify", "pages", code=3)
    (found,) = json.loads(answer(capfd, "artifacts", "verify", "--json", code=3))
    assert found["id"] == imported.id
    assert len(found["damage"]) == 1


def test_the_report_is_one_page_without_scripts_or_outside_files(
    folder: Path, imported: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    child_of(imported, Store(str(folder / "store")))
    assert main(["report", "pages"]) == 0
    page = (folder / f"pages-{imported.manifest.version}.html").read_text()
    for part in (imported.id, imported.manifest.digest, "CC-BY-4.0", "type: folder", "a.jsonl", "Where it came from"):
        assert part in page
    assert not re.search(r"<script|<link|src=|href=|@import", page)
    assert main(["report", "pages", "--output", "other.html"]) == 0
    assert (folder / "other.html").exists()
    assert "no/such" in complaint(capfd, "report", "pages", "--output", "no/such/folder.html", code=3)


def test_a_report_escapes_what_the_data_says(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = JOB.replace("CC-BY-4.0", "'<script>alert(1)</script>'")
    (folder / "import.yaml").write_text(text)
    assert main(["run", "import.yaml"]) == 0
    assert main(["report", "pages", "--output", "page.html"]) == 0
    assert "<script" not in (folder / "page.html").read_text()


def test_every_template_passes_check_and_is_never_written_over(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = list(templates())
    assert set(names) >= {
        "import",
        "clean",
        "pretrain",
        "finetune",
        "merge",
        "quantize",
        "evaluate",
        "serve",
        "predict",
    }
    for name in names:
        (folder / f"{name}.yaml").unlink(missing_ok=True)
        assert main(["init", name]) == 0
    assert main(["check", *(f"{name}.yaml" for name in names)]) == 0
    assert "is there already" in complaint(capfd, "init", "finetune", code=3)
    assert main(["init", "finetune", "--output", "other.yaml"]) == 0
    assert "did you mean finetune?" in complaint(capfd, "init", "fintune", code=3)
    listed = answer(capfd, "init")
    assert all(name in listed for name in names)


@pytest.mark.parametrize("kind", list(SPECS))
def test_every_kind_has_a_schema_that_is_closed(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(answer(capfd, "schema", kind))
    assert schema["additionalProperties"] is False
    assert schema["properties"]["kind"]["const"] == kind


def test_a_schema_of_no_kind_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert "did you mean train?" in complaint(capfd, "schema", "trian", code=2)


def test_plan_says_whether_the_result_is_there(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "not made yet" in complaint(capfd, "plan", "import.yaml", code=0)
    assert not (folder / "store" / "pages").exists()
    assert main(["run", "import.yaml"]) == 0
    assert "finished already" in complaint(capfd, "plan", "import.yaml", code=0)


PIPELINE = """
kind: pipeline
name: chain
stages:
  - {name: get, job: import.yaml}
  - {name: join, job: merge.yaml, needs: [get]}
"""


def test_plan_of_a_pipeline_prints_the_graph_and_what_waits(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "merge.yaml").write_text("kind: merge\nname: joined\nadapter: artifact:pages\n")
    (folder / "pipeline.yaml").write_text(PIPELINE)
    said = complaint(capfd, "plan", "pipeline.yaml", code=0)
    assert re.search(r"get\s+import\s+at once", said)
    assert re.search(r"join\s+merge\s+after get", said)
    assert "after get: the artifacts that it needs are not made yet" in said
    assert main(["run", "import.yaml"]) == 0
    assert "adapter needs a adapter" in complaint(capfd, "plan", "pipeline.yaml", code=2).replace("an ", "a ")


def test_a_pipeline_that_will_lack_something_does_not_start(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "merge.yaml").write_text("kind: merge\nname: joined\nadapter: artifact:elsewhere\n")
    (folder / "pipeline.yaml").write_text(PIPELINE)
    assert main(["check", "pipeline.yaml"]) == 0
    said = complaint(capfd, "run", "pipeline.yaml", code=3)
    assert "stage join uses artifact:elsewhere in adapter, which no stage makes" in said
    assert not (folder / "store" / "pages").exists()


def test_check_of_a_pipeline_checks_its_files_too(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "merge.yaml").write_text("kind: merge\nname: joined\nadaptr: artifact:pages\n")
    (folder / "pipeline.yaml").write_text(PIPELINE)
    said = complaint(capfd, "check", "pipeline.yaml", "import.yaml", code=2)
    assert "adaptr: unknown key; did you mean adapter?" in said
    assert "import.yaml: ok (import pages)" in said


def test_the_doctor_looks_at_everything_shows_no_token_and_leaves_nothing_behind(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    said = answer(capfd, "doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(said)}
    assert findings["Python"]["state"] == "ok"
    assert findings["Ray"]["state"] == "ok"
    assert findings["store"]["state"] == "ok"
    assert not (folder / "store").exists()
    assert set(findings) >= {"packages", "torch", "memory", "disk of the store", "ports", "model hub", "C++ compiler"}
    assert "with a token" in said
    assert "hf_secret" not in said
    assert "Everything that Rayloom needs is here" in complaint(capfd, "doctor", code=0)


def test_the_doctor_fails_where_something_needed_is_missing(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (folder / "file").write_text("")
    monkeypatch.setenv("RAYLOOM_STORE", str(folder / "file" / "store"))
    findings = json.loads(answer(capfd, "doctor", "--json", code=4))
    missing = {finding["name"]: finding for finding in findings if finding["state"] == "missing"}
    assert set(missing) == {"Ray", "store"}
    assert all(finding["fix"] for finding in missing.values())


def test_a_reader_that_goes_away_is_no_error(folder: Path, imported: Artifact) -> None:
    command = f"{sys.executable} -m rayloom artifacts show pages --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert ended.returncode in (0, 141)
