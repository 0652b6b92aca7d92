"""What writes: an endpoint, asked by threads, or a vLLM engine of a model of the store."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, RayloomError
from rayloom.generate.asks import Ask, ModelAnswer
from rayloom.models.chat_endpoint import ChatEndpoint, RefusedError
from rayloom.models.compile_cache import keep_compiled
from rayloom.models.responders.subject import Subject
from rayloom.models.vllm_adapter import check_offline, room_for_rank
from rayloom.models.vllm_process import cpu_arguments
from rayloom.specs.generation.engines import EndpointEngine, ModelEngine, Sampling


@dataclass(frozen=True)
class Asking:
    """What a job says about all of its requests to one writer."""

    job: str
    sampling: Sampling
    system: str | None = None
    """The system message before each."""


def writing_subject(role: str, artifact: Artifact, store: Store) -> Subject:
    """A model of the store that writes. Raises InputError if it cannot, in vLLM's offline engine."""
    subject = Subject.of("model", artifact, store)
    if subject.task is not None:
        raise InputError(f"{subject.artifact_id} was trained for a task and writes no text", where=f"{role}.model")
    check_offline(subject)
    return subject


class EndpointWriter:
    """Asks an endpoint. `spent`: tokens of prompts and answers of earlier runs."""

    def __init__(self, engine: EndpointEngine, asking: Asking, spent: tuple[int, int]) -> None:
        self._engine, self._asking = engine, asking
        self._endpoint = ChatEndpoint(engine, spent)

    def write(self, asks: Sequence[Ask]) -> Iterator[ModelAnswer]:
        waiting = iter(asks)
        problem: RayloomError | None = None
        with ThreadPoolExecutor(self._engine.max_parallel_requests) as threads:
            first = itertools.islice(waiting, self._engine.max_parallel_requests)
            running = {threads.submit(self._answer, ask) for ask in first}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    error = one.exception()
                    if error is None:
                        yield one.result()
                    elif not isinstance(error, RayloomError):
                        raise error
                    # Those that are on their way are paid for: they are waited for, and no other is sent.
                    problem = problem or error
                if problem is None:
                    running |= {threads.submit(self._answer, ask) for ask in itertools.islice(waiting, len(done))}
        if problem is not None:
            raise problem

    def close(self) -> None:
        self._endpoint.close()

    def _answer(self, ask: Ask) -> ModelAnswer:
        sampling, system = self._asking.sampling, _system(self._asking)
        how: dict[str, Any] = {"temperature": sampling.temperature if ask.is_sampled else 0.0}
        if ask.is_sampled and sampling.temperature:
            how |= {"top_p": sampling.top_p, "seed": ask.seed(sampling.seed)}
        if ask.stop:
            how["stop"] = list(ask.stop)
        messages = [*system, {"role": "user", "content": ask.prompt}]
        try:
            reply = self._endpoint.reply(messages, ask.max_new_tokens or sampling.max_new_tokens, **how)
        except RefusedError as error:
            return ModelAnswer(ask.key, model=self._engine.model, failed=str(error))
        return ModelAnswer(ask.key, reply.text, reply.num_tokens, reply.num_prompt_tokens, reply.is_cut, reply.model)


class VllmWriter:
    """A vLLM engine, in the process of an actor.

    Prompts are rendered and tokenised as in training and serving, and an answer ends where the server's would. All
    requests are given to the engine together, so that it is as full as vLLM's own offline engine would be.
    """

    def __init__(self, subject: Subject, engine: ModelEngine, asking: Asking) -> None:
        keep_compiled()
        import rayloom.pretrained  # noqa: F401 - for what vLLM imports of transformers

        # Engines write to standard output, which is for the command's own output.
        os.dup2(2, 1)
        from vllm import LLM

        self._subject, self._sampling, self._system = subject, asking.sampling, _system(asking)
        self._renderer = subject.renderer.with_kwargs(engine.chat_template_kwargs) if engine.form == "chat" else None
        arguments: dict[str, Any] = {"max_model_len": engine.max_length_tokens}
        if not engine.gpus_per_worker:
            arguments |= cpu_arguments(subject.base, engine.kv_cache_bytes)
        if subject.adapter is not None:
            arguments |= {"enable_lora": True, "max_lora_rank": room_for_rank(subject.adapter), "max_loras": 1}
        self.llm = LLM(
            model=str(subject.base),
            tokenizer=str(subject.tokenizer_folder),
            max_num_seqs=engine.micro_batch_sequences,
            trust_remote_code=False,
            **arguments,
        )

    def write(self, asks: Sequence[Ask]) -> Iterator[list[ModelAnswer]]:
        """The answers in groups that became ready at the same time."""
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs import tokens_input

        engine, asked = self.llm.llm_engine, {ask.key: ask for ask in asks}
        refused = []
        for ask in asks:
            try:
                prompt = tokens_input(self.tokens(ask.prompt))
                engine.add_request(ask.key, prompt, self.parameters(ask), lora_request=self._lora())
            except (VLLMValidationError, ValueError, RayloomError) as error:
                refused.append(ModelAnswer(ask.key, model=self._subject.artifact_id, failed=str(error).splitlines()[0]))
        if refused:
            yield refused
        while engine.has_unfinished_requests():
            ready = [self._answer(asked[output.request_id], output) for output in engine.step() if output.finished]
            if ready:
                yield ready

    def tokens(self, prompt: str) -> list[int]:
        """The prompt as the model reads it."""
        if self._renderer is None:
            return list(self._subject.renderer.tokenizer(prompt)["input_ids"])
        return self._renderer.prompt([*self._system, {"role": "user", "content": prompt}])

    def parameters(self, ask: Ask) -> Any:
        """How vLLM samples the answer."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        is_sampled = ask.is_sampled and self._sampling.temperature > 0
        return SamplingParams(
            temperature=self._sampling.temperature if is_sampled else 0.0,
            top_p=self._sampling.top_p if is_sampled else 1.0,
            seed=ask.seed(self._sampling.seed) if is_sampled else None,
            max_tokens=ask.max_new_tokens or self._sampling.max_new_tokens,
            stop=list(ask.stop),
            stop_token_ids=sorted(self._subject.renderer.stop_tokens),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _lora(self) -> Any:
        if self._subject.adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, str(self._subject.adapter))

    def _answer(self, ask: Ask, output: Any) -> ModelAnswer:
        (written,) = output.outputs
        return ModelAnswer(
            ask.key,
            written.text,
            len(written.token_ids),
            len(output.prompt_token_ids),
            written.finish_reason == "length",
            self._subject.artifact_id,
        )


def _system(asking: Asking) -> list[dict[str, str]]:
    return [] if asking.system is None else [{"role": "system", "content": asking.system}]
