"""The web application's pages: what they show, what they escape, and whom they refuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from support.ui_store import HOSTILE, PORT, family, json_lines, published, workbench

from rayloom.ui.application import application
from rayloom.ui.protection import POLICY
from rayloom.ui.workbench import Workbench

HERE = f"http://127.0.0.1:{PORT}"
KEY = "a key of more than sixteen characters"


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    bench = workbench(tmp_path)
    family(bench.store)
    published(
        bench.store,
        "hostile",
        "ffff00000001",
        files={"a<b>&'\".jsonl": json_lines([{HOSTILE: HOSTILE, "messages": [{"role": HOSTILE, "content": HOSTILE}]}])},
        spec={"description": HOSTILE},
        headline=HOSTILE,
    )
    return bench


@pytest.fixture
def client(bench: Workbench) -> TestClient:
    return TestClient(application(bench), base_url=HERE)


PAGES = (
    "/",
    "/?q=adapter&all=yes&order=name",
    "/artifacts/adapter/dddd00000001",
    "/artifacts/adapter/dddd00000001/lineage",
    "/artifacts/rows/aaaa00000001/rows",
    "/artifacts/rows/aaaa00000001/rows?from=7&one=yes",
    "/artifacts/corpus/cccc00000001/rows?field=reason&value=too_short",
    "/compare?id=adapter@dddd00000001&id=adapter@dddd00000002",
    "/artifacts/hostile/ffff00000001",
    "/artifacts/hostile/ffff00000001/rows",
    "/artifacts/hostile/ffff00000001/lineage",
)


def test_a_store_that_vanishes_is_said_on_the_pages_of_its_artifacts(client: TestClient, bench: Workbench) -> None:
    bench.index.read_now()
    root = Path(bench.store.root)
    root.rename(root.with_name("away"))
    bench.index.read_now()
    answer = client.get("/artifacts/adapter/dddd00000001")
    assert (answer.status_code, "There is no store here" in answer.text) == (404, True)


def test_half_a_surrogate_pair_in_a_row_is_shown(client: TestClient, bench: Workbench) -> None:
    """JSON can hold one, UTF-8 cannot."""
    published(bench.store, "odd", "ffff00000002", files={"rows.jsonl": '{"text": "\\ud800"}\n'})
    answer = client.get("/artifacts/odd/ffff00000002/rows")
    assert (answer.status_code, "\\ud800" in answer.text) == (200, True)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_answers_without_inline_script_or_style_and_loads_nothing_from_elsewhere(
    client: TestClient, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on\w+=", _without_texts(answer.text)) == []
    assert re.findall(r"(?:src|href|action)=\"(?!/|\?|#)", answer.text) == []


def _without_texts(page: str) -> str:
    """The tags of a page: what is escaped is no tag."""
    return "".join(re.findall(r"<[^>]*>", page))


@pytest.mark.parametrize("path", [path for path in PAGES if "hostile" in path] + ["/", f"/?q={HOSTILE}"])
def test_strangers_texts_are_escaped(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert "<script>alert" not in answer.text
    assert "<img src=x" not in answer.text


def test_hostile_rows_are_shown_as_they_are(client: TestClient) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in client.get("/artifacts/hostile/ffff00000001/rows").text


def test_rejects_and_judgements_are_filtered_by_what_their_metrics_count(client: TestClient, bench: Workbench) -> None:
    page = client.get("/artifacts/corpus/cccc00000001/rows").text
    assert "By reason:" in page and "field=reason&amp;value=not_english" in page
    judged = json_lines([{"number": n, "outcome": "tie" if n else "no_verdict"} for n in range(5)])
    counts = {"outcomes": {"tie": 4, "no_verdict": 1}}
    published(bench.store, "which", "abcd00000001", kind="compare", files={"judgements.jsonl": judged}, metrics=counts)
    bench.index.read_now()
    page = client.get("/artifacts/which/abcd00000001/rows?field=outcome&value=no_verdict").text
    assert "By outcome:" in page and 'aria-current="true">no_verdict' in page and page.count("<article") == 1


def test_the_list_is_filtered_and_ordered(client: TestClient) -> None:
    assert client.get("/?kind=train").text.count('name="id"') == 1
    assert client.get("/?kind=train&all=yes").text.count('name="id"') == 2
    assert "No artifact fits" in client.get("/?q=nowhere").text


def test_the_lineage_leads_to_parents_and_children(client: TestClient) -> None:
    page = client.get("/artifacts/corpus/cccc00000001/lineage").text
    links = {f"/artifacts/{name}/lineage" for name in ("rows/aaaa00000001", "merged/eeee1", "adapter/dddd00000001")}
    assert all(f'href="{link}"' in page for link in links)


def test_a_report_is_made_and_its_chart_is_an_image(client: TestClient) -> None:
    page = client.get("/artifacts/adapter/dddd00000001/report").text
    assert "Loss by step" in page
    assert "<svg" not in page
    source = re.search(r'<img class="chart" src="([^"]+)"', page)
    assert source is not None
    chart = client.get(source[1])
    assert chart.headers["content-type"].startswith("image/svg+xml")
    assert chart.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get("/artifacts/adapter/dddd00000001/charts/99/0.svg").status_code == 404


def test_curves_of_two_trainings_stand_over_each_other(client: TestClient) -> None:
    charts = client.get("/curves.json?id=adapter@dddd00000001&id=adapter@dddd00000002").json()["charts"]
    assert charts[0]["title"] == "loss"
    names = [one["name"] for one in charts[0]["series"]]
    assert len(set(names)) == 4
    assert all(len(one["x"]) == len(one["y"]) for chart in charts for one in chart["series"])


def test_comparing_shows_what_differs_and_counts_what_does_not(client: TestClient) -> None:
    page = client.get("/compare?id=adapter@dddd00000001&id=adapter@dddd00000002").text
    assert "learning_rate" in page
    assert "adapter.rank" not in page
    assert client.get("/compare").status_code == 404
    assert client.get("/compare?" + "&".join(f"id=adapter@{n}" for n in range(9))).status_code == 404


def test_a_file_is_saved_not_shown(client: TestClient) -> None:
    answer = client.get("/artifacts/rows/aaaa00000001/file?path=rows.jsonl")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"
    for path in ("manifest.json", "../../current.json", "/etc/passwd", ""):
        assert client.get("/artifacts/rows/aaaa00000001/file", params={"path": path}).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/artifacts/no/such",
        "/artifacts/..%2f..%2fetc/passwd",
        "/artifacts/rows/aaaa00000001/rows?file=../x",
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-security-policy"] == POLICY


def test_a_shortened_version_is_found(client: TestClient) -> None:
    assert client.get("/artifacts/rows/aaaa").status_code == 200
    assert client.get("/artifacts/adapter/dddd").status_code == 404


def test_a_defect_is_a_page_with_the_policy(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.index, "view", broken)
    client = TestClient(application(bench), base_url=HERE, raise_server_exceptions=False)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "defect" in answer.text
    assert answer.headers["content-security-policy"] == POLICY


# Whom it answers.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8500", 200),
        ("localhost:8500", 200),
        ("[::1]:8500", 200),
        ("evil.example", 421),
        ("", 421),
        ("a b", 421),
    ],
)
def test_it_answers_only_under_the_names_of_this_machine(client: TestClient, host: str, status: int) -> None:
    assert client.get("/", headers={"host": host}).status_code == status


def keyed(tmp_path: Path, **access: Any) -> TestClient:
    return TestClient(application(workbench(tmp_path, key=KEY, **access)), base_url=HERE, follow_redirects=False)


def test_without_the_key_there_is_nothing(tmp_path: Path) -> None:
    client = keyed(tmp_path)
    assert client.get("/").status_code == 401
    assert client.get("/static/style.css").status_code == 401
    assert client.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert client.get("/?key=wrong").status_code == 401


def test_the_key_leaves_the_address_for_a_cookie(tmp_path: Path) -> None:
    client = keyed(tmp_path)
    answer = client.get("/compare", params={"key": KEY, "id": "a@b"})
    assert answer.headers["location"] == "/compare?id=a%40b"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert KEY not in answer.headers["set-cookie"]
    assert client.get("/").status_code == 200


def test_the_key_never_leads_to_another_site(tmp_path: Path) -> None:
    answer = keyed(tmp_path).get(f"{HERE}//evil.example/", params={"key": KEY})
    assert answer.headers["location"].startswith("/evil.example")


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null", "http://127.0.0.1:9999"])
def test_another_site_can_change_nothing(client: TestClient, origin: str | None) -> None:
    headers = {"origin": origin} if origin else {}
    assert client.post("/", headers=headers).status_code == 403
    assert client.post("/", headers={"origin": HERE}).status_code == 405
