"""`rayloom run` of a serve job on the real model: asked with the official client, stopped by a signal, gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI

from rayloom.artifacts.store import Artifact, Store

UP_WITHIN_SECONDS = 300.0


@dataclass(frozen=True)
class Running:
    port: int
    process: subprocess.Popen[str]
    job: Path
    environment: dict[str, str]

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def service(smollm2: Artifact, shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One running service for the whole file."""
    folder, port = tmp_path_factory.mktemp("serve"), _free_port()
    job = folder / "serve.yaml"
    job.write_text(
        f"kind: serve\nname: tested\nport: {port}\n"
        f"models:\n  - name: smollm\n    model: artifact:{smollm2.manifest.name}\n"
        "    engine: {max_model_length_tokens: 512, max_sequences: 8, kv_cache: {size_bytes: 134217728}}\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAYLOOM_STORE"] = shared_store.uri
    command = [sys.executable, "-m", "rayloom", "run", str(job)]
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT, text=True)
    try:
        until = time.monotonic() + UP_WITHIN_SECONDS
        while not _is_up(port):
            assert process.poll() is None, (folder / "said.txt").read_text()
            assert time.monotonic() < until, (folder / "said.txt").read_text()
            time.sleep(0.5)
        yield Running(port, process, job, environment)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


def test_a_question_is_answered(service: Running) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = service.client.chat.completions.create(model="smollm", messages=question, temperature=0, max_tokens=16)  # type: ignore[arg-type]
    assert "Paris" in str(answer.choices[0].message.content)


def test_a_stream_comes_in_pieces_and_is_the_same_answer(service: Running) -> None:
    prompt = {"model": "smollm", "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
    whole = service.client.completions.create(**prompt)  # type: ignore[call-overload]
    pieces = [piece.choices[0].text for piece in service.client.completions.create(**prompt, stream=True)]  # type: ignore[call-overload]
    assert len(pieces) > 1
    assert "".join(pieces) == whole.choices[0].text


def test_an_unknown_model_is_a_404(service: Running) -> None:
    with pytest.raises(NotFoundError, match="smollm"):
        service.client.completions.create(model="other", prompt="Hello")


def test_malformed_json_is_a_400(service: Running) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.port}/v1/chat/completions",
        data=b'{"model": ',
        headers={"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 400
    refused.value.close()


def test_a_port_in_use_is_one_sentence(service: Running) -> None:
    command = [sys.executable, "-m", "rayloom", "run", str(service.job)]
    second = subprocess.run(command, env=service.environment, capture_output=True, text=True, timeout=120)
    assert second.returncode == 4
    assert str(service.port) in second.stderr
    assert "Traceback" not in second.stderr


def test_stopped_by_a_signal_it_leaves_no_port(service: Running) -> None:
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(timeout=120) in (0, 130)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", service.port)) != 0
