"""The two places where ray.serve.llm's start of an engine is changed: nothing to download, and one process on a CPU.

Imports vLLM: only replicas import this file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from vllm.usage.usage_lib import UsageContext


class ModelIsHere(CallbackBase):  # type: ignore[misc]
    """Skips the download step, which would import vLLM in one more process to find nothing to do."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.ctx.run_init_node = False


def one_process_engine(on_cores: Callable[[], AbstractContextManager[None]]) -> type[VLLMEngine]:
    """An engine class whose scheduler and model share one process, which is started inside `on_cores()`."""

    class OneProcessEngine(VLLMEngine):  # type: ignore[misc]
        def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
            # ray.serve.llm insists on vLLM's executor with a process for each worker; with one worker it only waits.
            arguments, frontend, _ = super()._prepare_engine_config(callback_ctx)
            arguments.distributed_executor_backend = "uni"
            return arguments, frontend, arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)

        def _start_async_llm_engine(self, *arguments: Any, **named: Any) -> Any:
            with on_cores():
                return super()._start_async_llm_engine(*arguments, **named)

    return OneProcessEngine
