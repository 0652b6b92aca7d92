"""What `engine_internals` expects of the installed Ray and vLLM, read off their sources: importing them takes seconds.

An upgrade that moves one of these fails here, and names the function to change.
"""

from __future__ import annotations

import ast
import importlib.util
import pickle
from pathlib import Path

import pytest

from rayloom.models import vllm_lora
from rayloom.models.vllm_process import vllm_environment
from rayloom.serve.gateway.deployment import RequestBody
from rayloom.serve.replicas import engine_internals
from rayloom.specs.serving.engine import TYPED_ARGUMENTS

Function = ast.FunctionDef | ast.AsyncFunctionDef
LLM = "ray/llm/_internal"


def source(path: str) -> str:
    """The text of a file of an installed package."""
    package, _, rest = path.partition("/")
    installed = importlib.util.find_spec(package)
    assert installed is not None
    assert installed.submodule_search_locations is not None
    return (Path(installed.submodule_search_locations[0]) / rest).read_text(encoding="utf-8")


def named(body: list[ast.stmt], name: str) -> ast.ClassDef | Function:
    """The class or function of this name."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return next(node for node in body if isinstance(node, kinds) and node.name == name)


def function(path: str, name: str) -> Function:
    """`Class.method`, or a function of the file."""
    body = ast.parse(source(path)).body
    for part in name.split("."):
        node = named(body, part)
        body = node.body
    assert not isinstance(node, ast.ClassDef)
    return node


def parameters(path: str, name: str) -> set[str]:
    arguments = function(path, name).args
    return {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def text_of_function(path: str, name: str) -> str:
    return ast.unparse(function(path, name))


def fields(path: str, name: str) -> set[str]:
    """Annotated fields of a class."""
    body = named(ast.parse(source(path)).body, name).body
    return {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


# -- Ray Serve ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(engine_internals.ONE_LOOP))
def test_serve_reads_where_its_loops_run_from_the_environment(name: str) -> None:
    assert f'get_env_bool(\n    "{name}", "1"\n)' in source("ray/serve/_private/constants.py")


def test_a_version_of_its_own_can_be_given_to_a_deployment() -> None:
    assert {"version", "_internal"} <= parameters("ray/serve/deployment.py", "Deployment.options")
    assert "if not _internal and version" in text_of_function("ray/serve/deployment.py", "Deployment.options")


def test_handles_send_by_value_to_applications_that_may_not_exist() -> None:
    assert "_check_exists" in parameters("ray/serve/api.py", "get_deployment_handle")
    options = parameters("ray/serve/handle.py", "DeploymentHandle.options")
    assert {"stream", "_by_reference", "request_serialization", "response_serialization"} <= options
    assert {'NOOP = "noop"', 'PICKLE = "pickle"'} <= {
        line.strip() for line in source("ray/serve/_private/serialization.py").splitlines()
    }


def test_an_application_can_be_deleted_without_waiting() -> None:
    assert "blocking=_blocking" in text_of_function("ray/serve/api.py", "delete")


def test_the_prefix_router_looks_for_messages_or_a_prompt() -> None:
    module, _, name = engine_internals.PREFIX_ROUTER.rpartition(".")
    assert isinstance(named(ast.parse(source(module.replace(".", "/") + ".py")).body, name), ast.ClassDef)
    path = f"{LLM}/serve/routing_policies/prefix_aware/prefix_aware_router.py"
    extract = text_of_function(path, f"{name}._extract_text_from_request")
    assert "valid_input_types = ['messages', 'prompt']" in extract
    assert "for arg in pending_request.args" in extract


def test_a_body_has_its_text_for_the_router_and_is_sent_as_plain_bytes() -> None:
    body = RequestBody(b'{"prompt": "Once"}')
    assert body.prompt == "Once"
    assert not hasattr(body, "messages")
    received = pickle.loads(pickle.dumps(body))  # noqa: S301
    assert type(received) is bytes
    assert received == b'{"prompt": "Once"}'


def test_processes_of_a_service_have_the_titles_that_are_looked_for() -> None:
    assert '"VLLM_PROCESS_NAME_PREFIX", "VLLM"' in source("vllm/envs.py")
    assert "class ProxyActor(" in source("ray/serve/_private/proxy.py")
    assert "class ServeController:" in source("ray/serve/_private/controller.py")
    assert "ServeReplica:" in source("ray/serve/_private/common.py") + source("ray/serve/_private/deployment_state.py")


def test_serve_awaits_a_destructor_and_builds_a_replicas_own_application() -> None:
    replica = source("ray/serve/_private/replica.py")
    assert 'SERVE_BUILD_ASGI_APP_METHOD = "__serve_build_asgi_app__"' in replica
    assert "`async def __del__(self)`" in replica


# -- ray.serve.llm -----------------------------------------------------------------------------------------------------


def test_a_callback_can_skip_the_download() -> None:
    path = f"{LLM}/common/callbacks/base.py"
    assert "run_init_node" in fields(path, "CallbackCtx")
    assert "self.ctx = CallbackCtx(" in text_of_function(path, "CallbackBase.__init__")
    assert "callback_class" in fields(path, "CallbackConfig")
    assert "if callback.ctx.run_init_node:" in source(f"{LLM}/serve/engines/vllm/vllm_engine.py")


def test_adapters_are_loaded_by_a_method_that_can_be_replaced() -> None:
    path = f"{LLM}/serve/utils/lora_serve_utils.py"
    assert parameters(path, "LoraModelLoader.load_model_from_config") == {"self", "lora_model_id", "llm_config"}
    wanted = {"model_id", "max_total_tokens", "local_path", "lora_assigned_int_id"}
    assert fields(f"{LLM}/serve/core/configs/llm_config.py", "DiskMultiplexConfig") == wanted
    assert "global_id_manager = GlobalIdManager()" in source(f"{LLM}/common/models.py")


def test_an_engine_is_made_by_two_methods_that_can_be_replaced() -> None:
    path = f"{LLM}/serve/engines/vllm/vllm_engine.py"
    prepare = text_of_function(path, "VLLMEngine._prepare_engine_config")
    assert parameters(path, "VLLMEngine._prepare_engine_config") == {"self", "callback_ctx"}
    assert prepare.endswith("return (vllm_engine_args, vllm_frontend_args, vllm_engine_config)")
    assert "_start_async_llm_engine" in source(path)
    assert function(path, "VLLMEngine._start_async_llm_engine").returns is not None
    assert "== 'uni'" in text_of_function("vllm/v1/executor/abstract.py", "Executor.get_class")
    assert "usage_context" in parameters("vllm/engine/arg_utils.py", "EngineArgs.create_engine_config")
    assert "distributed_executor_backend" in fields("vllm/engine/arg_utils.py", "EngineArgs")
    assert 'OPENAI_API_SERVER = "' in source("vllm/usage/usage_lib.py")


def test_the_engines_processes_print_what_their_start_took() -> None:
    weights = '"Loading weights took %.2f seconds"'
    ready = '"init engine (profile, create kv cache, warmup model) took %.2f s"'
    assert weights in source("vllm/model_executor/model_loader/default_loader.py")
    assert ready in source("vllm/v1/engine/core.py")
    assert '"%.2f s (compilation: %.2f s)",' in source("vllm/v1/engine/core.py")
    printed = (weights.strip('"') % 1.5, ready.strip('"') % 20.25)
    told = engine_internals.printed_seconds
    assert told("\n".join(printed)) == (1.5, 20.25, 0.0)
    assert told(f"(EngineCore pid=7) INFO 11-30 [core.py:386] {printed[1]} (compilation: 18.00 s)") == (
        None,
        20.25,
        18.0,
    )
    assert told("anything else") == (None, None, 0.0)


def test_an_engines_processes_log_as_its_configuration_says_and_its_server_does_not() -> None:
    assert {"configure_logging", "log_level"} <= fields("vllm/config/logging.py", "LoggingConfig")
    for process in ("vllm/v1/engine/core.py", "vllm/v1/executor/multiproc_executor.py"):
        assert "configure_logging(logging_config)" in source(process)
    assert "configure_logging_if_needed(vllm_config.logging_config)" in source("vllm/v1/engine/async_llm.py")
    needed = text_of_function("vllm/logger.py", "configure_logging_if_needed")
    assert "if config != _last_configured_logging_config:" in needed
    assert 'vllm_handler["stream"] = envs.VLLM_LOGGING_STREAM' in source("vllm/logger.py")


def test_a_server_can_be_made_outside_a_deployment() -> None:
    path = f"{LLM}/serve/core/server/llm_server.py"
    wanted = {"cls", "llm_config", "engine_cls", "model_downloader"}
    assert parameters(path, "LLMServer.sync_init") == wanted
    assert isinstance(function(path, "LLMServer.start"), ast.AsyncFunctionDef)
    for name in ("__serve_build_asgi_app__", "_maybe_resolve_lora_from_multiplex"):
        assert isinstance(function(path, f"LLMServer.{name}"), ast.AsyncFunctionDef)
        assert parameters(path, f"LLMServer.{name}") == {"self"}


def test_vllms_client_knows_whether_its_engine_died() -> None:
    assert "self._engine_client = self._start_async_llm_engine(" in source(f"{LLM}/serve/engines/vllm/vllm_engine.py")
    (decorator,) = function("vllm/v1/engine/async_llm.py", "AsyncLLM.errored").decorator_list
    assert ast.unparse(decorator) == "property"


# -- vLLM --------------------------------------------------------------------------------------------------------------


def test_the_installed_vllm_serves_what_it_is_known_for() -> None:
    served = engine_internals.served_architectures()
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM"} <= served
    assert "T5ForConditionalGeneration" not in served
    assert len(served) > 100


def test_the_installed_vllm_reads_the_tool_calls_that_it_is_known_for() -> None:
    assert {"hermes", "llama3_json"} <= engine_internals.tool_parsers()


def test_every_engine_argument_that_a_spec_sets_is_known_to_vllm() -> None:
    known = engine_internals.engine_arguments_known()
    assert set(TYPED_ARGUMENTS) <= known
    assert {"load_format", "chat_template", "seed"} <= known


def test_the_sampler_that_has_no_kernels_is_left_out_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert vllm_environment(None)["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in vllm_environment(2)
    assert '"VLLM_USE_FLASHINFER_SAMPLER"' in source("vllm/envs.py")


@pytest.mark.parametrize(
    "name", sorted(name for name in vllm_environment(1, in_one_process=True) if name.startswith("VLLM_"))
)
def test_vllm_reads_the_variables_that_are_set(name: str) -> None:
    assert f'"{name}"' in source("vllm/envs.py")


def test_seeds_on_cpus_are_set_back_where_vllm_throws_a_token_away() -> None:
    file = "vllm/v1/worker/gpu_model_runner.py"
    for name in ("GPUModelRunner._sample", "GPUModelRunner._bookkeeping_sync"):
        assert parameters(file, name)
    assert "gen.set_offset(gen.get_offset() - 4)" in source(file)
    assert "self.discard_request_mask.np[:num_reqs]" in source(file)
    runner = "vllm/v1/worker/cpu_model_runner.py"
    assert "class CPUModelRunner(GPUModelRunner)" in source(runner)
    assert "set_offset" not in source(runner)  # once vLLM does it itself, `vllm_on_cpu` need not


def test_lora_on_cpus_is_computed_by_what_is_replaced() -> None:
    file = "vllm/lora/punica_wrapper/punica_cpu.py"
    own = "vllm/lora/ops/torch_ops/lora_ops.py"
    runs = ["b_seq_start_loc", "seq_len_tensor", "lora_indices_tensor", "batches", "max_seq_length", "token_nums"]
    for name in vllm_lora.OPERATIONS:
        assert f"    {name},\n" in source(file)
        assert [argument.arg for argument in function(own, name).args.args][3:9] == runs
    logits = parameters(file, "PunicaWrapperCPU.add_lora_logits")
    assert logits == {"self", "y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "buffer"}
    assert "is_prefill=True" in source("vllm/v1/worker/lora_model_runner_mixin.py")
