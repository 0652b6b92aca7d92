"""What `rayloom run` prints when a service answers: its address, and how to ask it."""

from __future__ import annotations

import json
from typing import Any

from rayloom.observe.progress import say
from rayloom.serve import applications
from rayloom.serve.lifecycle import Service, access_log
from rayloom.serve.replicas.engine_settings import PredictorSettings
from rayloom.serve.replicas.predictor_requests import endpoint_of, example_input


def announce(service: Service) -> None:
    spec = service.spec
    say(f"serving {', '.join(served.name for served in spec.served)} at {service.url} (Ctrl-C stops it)")
    if spec.models:
        asked = {"model": spec.models[0].name, "messages": [{"role": "user", "content": "Who are you?"}]}
        say(f"  rayloom chat {service.url}" + (f", or {service.url}/ in a browser" if spec.chat_page else ""))
        say(_curl(f"{service.url}/v1/chat/completions", asked))
        say(f'  python: openai.OpenAI(base_url="{service.url}/v1", api_key="none")')
    for served in spec.predictors:
        engine = service.versions[served.name][0][0].engine
        assert isinstance(engine, PredictorSettings)
        asked = {"model": served.name, "input": example_input(engine.task)}
        say(_curl(f"{service.url}{endpoint_of(engine.task).path}", asked))
    if spec.predictors:
        say(f"  {service.url}/docs says what can be asked")
    if spec.doors.keys_required:
        say("  every request needs `Authorization: Bearer KEY`; `rayloom keys create NAME` makes one")
    if spec.logs.access:
        say(f"  access log: {access_log(spec, service.store)}")
    say(f"  metrics for Prometheus: {', '.join(applications.metrics_addresses())}")


def _curl(url: str, asked: dict[str, Any]) -> str:
    return f"  curl {url} -H 'content-type: application/json' -d '{json.dumps(asked)}'"
