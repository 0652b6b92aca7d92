"""What `plan` says about a policy: prompts and answers of a step, engines beside the trainer, what would go wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from rich.text import Text

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.models.responders.subject import Subject
from rayloom.models.weight_files import stored_tensors
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import NoAdapter
from rayloom.specs.training.hardware import fleet_of
from rayloom.specs.training.rewards import ModelReward, title_of
from rayloom.text.conversations.prompt_rows import PromptRows
from rayloom.train.job import TrainJob
from rayloom.train.planning.findings import amount
from rayloom.train.planning.fleet import duration
from rayloom.train.precision import computing_precision
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import ModelSize

ENGINE_PROCESS_BYTES = 1_600_000_000
"""Memory of an engine's process without weights and cache, measured with vLLM 0.32 on a CPU."""
WRITING_UTILISATION = 0.1
"""Share of a GPU's peak that writing many answers at once is taken to reach: it reads more than it multiplies."""
FEW_PROMPTS = 100
SHOWN_CHARACTERS = 400


def add_rollouts(sheet: PlanSheet, job: TrainJob, size: ModelSize, parents: Mapping[str, Artifact]) -> None:
    """Adds answers, memory and time of a policy's engines, reward models, the first prompt, problems and warnings."""
    spec = job.spec
    policy, rollouts = spec.policy, spec.rollouts
    if policy is None or rollouts is None:
        return
    prompts = PromptRows(job.train[0])
    answers = spec.global_batch_sequences
    sheet.add("prompts", f"{len(prompts):,} to train on ({job.num_rows / len(prompts):,.2f} epochs)")
    sheet.add("answers a step", f"{spec.rows_per_step:,} prompts × {policy.group_size} answers")
    sheet.add("written tokens", f"{job.num_steps * answers * rollouts.most_written_tokens:,} at most")
    rewards = spec.rewards or ()
    sheet.add("rewards", ", ".join(f"{reward.weight:g} × {title_of(reward)}" for reward in rewards))
    sheet.add("engines", _engines(spec, size))
    held = reward_model_bytes(spec, parents)
    if held:
        models = ", ".join(f"{name} {amount(size)}" for name, size in held.items())
        sheet.add("reward models", f"{models}, beside the first worker's training")
        _check_held(sheet, spec, memory_per_device(spec, size).total, sum(held.values()))
    reference = "none" if policy.kl is None else "a second model, frozen"
    if policy.kl is not None and not isinstance(spec.adapter, NoAdapter):
        reference = "the model without its adapter, which takes no memory"
    sheet.add("reference", reference)
    first = prompts.row(0)
    said = "\n".join(f"{message['role']}: {message['content']}" for message in first.messages)
    sheet.examples += [Text(f"{first.origin}, a prompt:", style="underline"), Text(said[:SHOWN_CHARACTERS])]
    if len(prompts) < FEW_PROMPTS:
        sheet.warnings.append(f"{len(prompts)} prompts are few: the policy may learn their answers by heart")
    if policy.importance_limit is None and spec.precision != "fp32" and policy.kl is None:
        sheet.warnings.append(
            "engine and trainer round otherwise in half precision, and nothing corrects it: policy.importance_limit: 2"
        )
    _add_devices(sheet, job, size)


def _engines(spec: TrainSpec, size: ModelSize) -> str:
    rollouts = spec.rollouts
    assert rollouts is not None
    where = f"{rollouts.gpus_per_engine} GPUs" if rollouts.gpus_per_engine else f"{rollouts.cpus_per_engine} CPUs"
    where += " of their own" if rollouts.placement == "own" else " that the trainer leaves to them"
    where += ", asleep while it trains" if rollouts.sleeps else ""
    tokens = min(cache_tokens(spec, size), rollouts.max_sequences * spec.sequence_length_tokens)
    return (
        f"{rollouts.num_engines} on {where}, about {engine_bytes(spec, size) / 1e9:,.3g} GB each; the cache holds "
        f"{tokens // spec.sequence_length_tokens} whole answers at once"
    )


def reward_model_bytes(spec: TrainSpec, parents: Mapping[str, Artifact]) -> dict[str, int]:
    """Memory of the weights of each reward model, by the reward's name; the first worker holds them."""
    found = {}
    for number, reward in enumerate(spec.rewards or ()):
        artifact = parents.get(f"rewards.{number}.model")
        if not isinstance(reward, ModelReward) or artifact is None:
            continue
        with contextlib.suppress(InputError):  # opening the rewards says what is wrong with it
            subject = Subject.of("model", artifact, artifact.store)
            folders = [subject.base, *([subject.adapter] if subject.adapter is not None else [])]
            values = sum(one.num_values for folder in folders for one in stored_tensors(folder).values())
            found[title_of(reward)] = values * unit_bytes(spec)
    return found


def _check_held(sheet: PlanSheet, spec: TrainSpec, training: int, held: int) -> None:
    if spec.hardware is None or not spec.workers.gpus_per_worker:
        return
    room = fleet_of(spec.hardware).device.memory_bytes
    if training + held > room:
        sheet.problems.append(
            f"the first worker's device has {amount(room)}, and training ({amount(training)}) with the reward models "
            f"({amount(held)}) takes more: lower micro_batch_sequences, or take a smaller reward model or a judge"
        )


def kv_bytes_per_token(spec: TrainSpec, size: ModelSize) -> int:
    """Bytes of the keys and values of one token."""
    return 2 * size.num_layers * size.num_key_value_heads * size.head_size * unit_bytes(spec)


def cache_tokens(spec: TrainSpec, size: ModelSize) -> int:
    """Tokens that an engine's cache holds."""
    rollouts = spec.rollouts
    assert rollouts is not None
    room = rollouts.kv_cache_bytes
    if rollouts.gpus_per_engine and spec.hardware is not None:
        memory = fleet_of(spec.hardware).device.memory_bytes * rollouts.gpus_per_engine
        room = max(0, int(memory * rollouts.gpu_memory_share) - size.parameters * unit_bytes(spec))
    return room // kv_bytes_per_token(spec, size)


def engine_bytes(spec: TrainSpec, size: ModelSize) -> int:
    """Memory of one engine: weights, cache, and on a CPU its process."""
    rollouts = spec.rollouts
    assert rollouts is not None
    cache = cache_tokens(spec, size) * kv_bytes_per_token(spec, size)
    return size.parameters * unit_bytes(spec) + cache + (0 if rollouts.gpus_per_engine else ENGINE_PROCESS_BYTES)


def unit_bytes(spec: TrainSpec) -> int:
    on_gpu = spec.rollouts is not None and spec.rollouts.gpus_per_engine > 0
    return 4 if computing_precision(spec, on_gpu) == "fp32" else 2


def _add_devices(sheet: PlanSheet, job: TrainJob, size: ModelSize) -> None:
    spec, rollouts = job.spec, job.spec.rollouts
    assert rollouts is not None
    if cache_tokens(spec, size) < spec.sequence_length_tokens:
        sheet.problems.append(
            "an engine's cache does not hold one prompt with its answer: raise rollouts.kv_cache_bytes to "
            f"{kv_bytes_per_token(spec, size) * spec.sequence_length_tokens}, or on GPUs rollouts.gpus_per_engine"
        )
    if spec.hardware is None:
        return
    fleet = fleet_of(spec.hardware)
    wanted = int(sum(bundle.gpus for bundle in spec.bundles()))
    if rollouts.sleeps:
        memory, room = memory_per_device(spec, size), fleet.device.memory_bytes * (1 - rollouts.gpu_memory_share)
        held = memory.weights + memory.optimizer + memory.reference
        if held > room:
            sheet.problems.append(
                f"the trainer holds {amount(held)} of its GPU while an engine writes there, and "
                f"rollouts.gpu_memory_share leaves it {amount(int(room))}: lower it, or set rollouts.placement: own"
            )
    if wanted > fleet.num_devices:
        sheet.problems.append(f"engines and workers need {wanted} devices; {spec.hardware} has {fleet.num_devices}")
    if rollouts.gpus_per_engine:
        tokens = job.num_steps * spec.global_batch_sequences * rollouts.most_written_tokens
        speed = fleet.device.peak_flops * WRITING_UTILISATION * rollouts.num_engines * rollouts.gpus_per_engine
        seconds = 2 * size.multiplied * tokens / speed
        sheet.add("time of writing", f"about {duration(seconds)} if every answer is as long as allowed")
