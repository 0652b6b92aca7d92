"""All uses of private parts of Ray Serve, ray.serve.llm and vLLM; each function says on what it relies.

`tests/unit/test_engine_internals.py` checks each assumption against the installed versions. Heavy packages are imported
only when a function is called: `rayloom plan` and the gateway need no vLLM. Written for Ray 2.60 and vLLM 0.32.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib.util
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray import serve
    from ray.llm._internal.common.callbacks.base import CallbackConfig
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader

    from rayloom.serve.transport.asgi_call import Application

# -- Ray Serve ---------------------------------------------------------------------------------------------------------

ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Environment of a replica: Serve and the user code share one event loop (uvloop), so that messages do not cross
threads. Ray reads both names in `ray.serve._private.constants`."""

PROCESS_TITLES = ("VLLM::", "ray::ServeReplica", "ray::ProxyActor", "ray::ServeController")
"""Beginnings of the process titles of a service: vLLM sets its own, Ray uses the actor's class."""

PREFIX_ROUTER = "ray.serve.llm.request_router.PrefixCacheAffinityRouter"
"""Sends requests with a common prefix to the same replica. It reads a request's text from the first argument that has
an attribute `messages` or `prompt` (see `RequestBody` of the gateway)."""

_SAME_CODE = "1"


def with_same_code(deployment: serve.Deployment, **options: Any) -> serve.Deployment:
    """The deployment with these options and a fixed code version.

    Without a version, Serve takes each deployment for new code and replaces all replicas if any option changes.
    `_internal` suppresses its warning about `version`.
    """
    return deployment.options(version=_SAME_CODE, _internal=True, **options)


def model_handle(deployment: str, application: str) -> Any:
    """A handle to a deployment that streams frames of bytes; its application need not exist yet.

    `_check_exists=False`: if Serve builds applications from a config, a model's application can still be missing, and
    requests wait for it. `_by_reference=False` with these serializations: arguments and frames use one connection
    instead of the object store, and frames are not serialised.
    """
    from ray import serve

    handle = serve.get_deployment_handle(deployment, app_name=application, _check_exists=False)
    return handle.options(
        stream=True, _by_reference=False, request_serialization="pickle", response_serialization="noop"
    )


def delete_later(application: str) -> None:
    """Deletes an application without waiting (`_blocking`); its replicas finish their requests first."""
    from ray import serve

    serve.delete(application, _blocking=False)


# -- ray.serve.llm -----------------------------------------------------------------------------------------------------


def no_download() -> CallbackConfig:
    """A callback that skips the download step, which would import vLLM in another process and have nothing to download.

    Relies on `ctx.run_init_node` of callbacks, which `initialize_node` reads.
    """
    from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig

    class ModelIsHere(CallbackBase):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.ctx.run_init_node = False

    return CallbackConfig(callback_class=ModelIsHere)


def adapter_loader(folder_of: Callable[[str], str]) -> type[LoraModelLoader]:
    """A class that loads adapters from folders of this node; ray.serve.llm's own accepts cloud storage URIs only.

    `folder_of`: maps the engine's name of an adapter to its folder; called in a thread. Relies on
    `load_model_from_config`, which is called with the two arguments below, and on the fields of `DiskMultiplexConfig`.
    """
    from ray.llm._internal.common.models import global_id_manager
    from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig, LLMConfig
    from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader

    class FolderLoader(LoraModelLoader):  # type: ignore[misc]
        async def load_model_from_config(self, lora_model_id: str, llm_config: LLMConfig) -> DiskMultiplexConfig:
            del llm_config
            return DiskMultiplexConfig(
                model_id=lora_model_id,
                max_total_tokens=None,
                local_path=await asyncio.to_thread(folder_of, lora_model_id),
                lora_assigned_int_id=global_id_manager.next(),
            )

    return FolderLoader


def telling_engine() -> type[VLLMEngine]:
    """An engine class whose processes print what they do, which `printed_seconds` reads; importing it imports vLLM.

    They configure their logging as `logging_config` of vLLM's configuration says. So would this process, and close the
    handlers that Ray Serve has: that the configuration was the last one here tells vLLM that there is nothing to do.
    """
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from vllm import logger

    class TellingEngine(VLLMEngine):  # type: ignore[misc]
        def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
            os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"  # of the processes that start now
            config.logging_config = replace(config.logging_config, configure_logging=True, log_level="INFO")
            logger._last_configured_logging_config = config.logging_config
            return super()._start_async_llm_engine(arguments, config, placement_group)

    return TellingEngine


_WEIGHTS_READ = re.compile(r"Loading weights took ([\d.]+) seconds")
_GRAPHS_MADE = re.compile(
    r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s(?: \(compilation: ([\d.]+) s)?"
)


def printed_seconds(text: str) -> tuple[float | None, float | None, float]:
    """What the engine's processes printed of their start: seconds for reading weights, those from there until all was
    ready, and those of the latter for torch.compile. None for what is not printed there: Ray's workers have own logs.
    """
    weights = [float(seconds) for seconds in _WEIGHTS_READ.findall(text)]  # a draft model's are read after the others
    ready = _GRAPHS_MADE.search(text)
    compiling = float(ready[2] or 0) if ready else 0.0
    return sum(weights) if weights else None, float(ready[1]) if ready else None, compiling


def one_process_engine(on_cores: Callable[[], AbstractContextManager[None]]) -> type[VLLMEngine]:
    """An engine class with scheduler and model in one process, which is started inside `on_cores()`.

    ray.serve.llm always uses vLLM's executor with a process for each worker, which one worker does not need. Relies on
    `_prepare_engine_config` (returns arguments, frontend arguments and configuration) and `_start_async_llm_engine`
    (starts vLLM's threads); vLLM's executor in the same process is called `uni`.
    """
    from vllm.usage.usage_lib import UsageContext

    class OneProcessEngine(telling_engine()):  # type: ignore[misc]
        def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
            arguments, frontend, _ = super()._prepare_engine_config(callback_ctx)
            arguments.distributed_executor_backend = "uni"
            return arguments, frontend, arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)

        def _start_async_llm_engine(self, *arguments: Any, **named: Any) -> Any:
            with on_cores():
                return super()._start_async_llm_engine(*arguments, **named)

    return OneProcessEngine


async def started_server(
    config: dict[str, Any], engine: type[VLLMEngine], loader: type[LoraModelLoader], *, skips_download: bool
) -> Any:
    """A started ray.serve.llm server with its engine, outside its own deployment. `config`: the fields of an LLMConfig.

    Relies on `sync_init` and `start`, which ray.serve.llm has for its tests.
    """
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    callback = {"callback_config": no_download()} if skips_download else {}
    server = LLMServer.sync_init(LLMConfig(**config, **callback), engine_cls=engine, model_downloader=loader)
    await server.start()
    return server


async def http_application(server: Any) -> Application:
    """vLLM's own HTTP application on the server's engine, which Ray uses if a replica serves HTTP itself."""
    application: Application = await server.__serve_build_asgi_app__()
    return application


async def load_named_adapter(server: Any) -> None:
    """Loads the adapter that Serve's request names (its multiplexed model id) into the engine.

    The server's HTTP middleware would do the same, but there errors would become a 500.
    """
    await server._maybe_resolve_lora_from_multiplex()


def is_engine_dead(server: Any) -> bool:
    """Whether the engine has failed for good, by a flag of vLLM's client; `check_health` would have to be awaited."""
    return bool(server.engine._engine_client.errored)


# -- vLLM --------------------------------------------------------------------------------------------------------------

_REGISTRY = Path("model_executor", "models", "registry.py")
_TOOL_PARSERS = Path("tool_parsers", "__init__.py")
_ARGUMENTS = Path("engine", "arg_utils.py")
_FRONTEND = Path("entrypoints", "launchers", "cli_args.py")
_NOT_SERVED = ("_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS")


@functools.cache
def served_architectures() -> frozenset[str]:
    """The architectures (as in config.json) that vLLM serves; empty if vLLM is not installed on this machine.

    Parsed from vLLM's source, because importing it takes seconds: the keys of the registry's tables
    `_…_MODELS = {"Architecture": ("module", "class"), …}`.
    """
    return _table_keys(_REGISTRY, lambda name: name.endswith("_MODELS") and name not in _NOT_SERVED)


@functools.cache
def tool_parsers() -> frozenset[str]:
    """Valid names for `engine.tool_parser`, parsed from the tables `…_TO_REGISTER` of vLLM's source."""
    return _table_keys(_TOOL_PARSERS, lambda name: name.endswith("_TO_REGISTER"))


@functools.cache
def engine_arguments_known() -> frozenset[str]:
    """Valid names for `engine.extra`: the fields of vLLM's argument classes; empty if vLLM is not installed."""
    files = {_ARGUMENTS: ("EngineArgs", "AsyncEngineArgs"), _FRONTEND: ("BaseFrontendArgs", "FrontendArgs")}
    return frozenset(
        statement.target.id
        for file, classes in files.items()
        for node in _statements(file)
        if isinstance(node, ast.ClassDef) and node.name in classes
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    )


def _statements(file: Path) -> list[ast.stmt]:
    """The statements of a source file of vLLM; empty if it is not installed."""
    installed = importlib.util.find_spec("vllm")
    folders = installed.submodule_search_locations if installed else None
    return ast.parse((Path(folders[0]) / file).read_text(encoding="utf-8")).body if folders else []


def _table_keys(file: Path, is_table: Callable[[str], bool]) -> frozenset[str]:
    """The string keys of the dictionaries that a source file of vLLM assigns to names for which `is_table` is true."""
    keys: set[str] = set()
    for node in _statements(file):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and is_table(target.id) and isinstance(value, ast.Dict):
            keys |= {key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return frozenset(keys)
