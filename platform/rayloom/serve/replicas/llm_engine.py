"""Where ray.serve.llm is changed: nothing to download, adapters from the store, and one process on a CPU.

Imports vLLM: only replicas import this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.common.models import global_id_manager
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig, LLMConfig
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader
from vllm.usage.usage_lib import UsageContext

from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.serve.replicas.adapters import base_digests_of


class ModelIsHere(CallbackBase):  # type: ignore[misc]
    """Skips the download step, which would import vLLM in one more process to find nothing to do."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.ctx.run_init_node = False


def store_loader(store: Store, base_digests: frozenset[str]) -> type[LoraModelLoader]:
    """A loader that takes adapters from the store; ray.serve.llm's own takes object-store addresses only."""

    class StoreLoader(LoraModelLoader):  # type: ignore[misc]
        async def load_model_from_config(self, lora_model_id: str, llm_config: LLMConfig) -> DiskMultiplexConfig:
            name = lora_model_id.partition(":")[2]
            manifest = store.resolve(name)
            if not base_digests & base_digests_of(manifest):
                raise InputError(f"{manifest.id} was trained on another model than {llm_config.model_id}")
            artifact = await asyncio.to_thread(store.open, manifest)
            return DiskMultiplexConfig(
                model_id=lora_model_id,
                max_total_tokens=None,
                local_path=str(artifact.path),
                lora_assigned_int_id=global_id_manager.next(),
            )

    return StoreLoader


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
