"""Run as a script: the sum of −log p that vLLM gives to the labels of documents, and greedy answers to prompts.

Arguments: a model folder, and a JSON file {"documents": [[ids, trained], …], "prompts": [ids, …]}. The last line
printed is JSON: {"nats": float, "num_tokens": int, "answers": [ids, …]}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

# Before vllm is imported: in this process, on as many cores as torch uses elsewhere, and quiet.
os.environ |= {
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def main(folder: str, questions: Path) -> None:
    from vllm import LLM, SamplingParams

    asked = json.loads(questions.read_text())
    engine = LLM(model=folder, max_model_len=1024, kv_cache_memory_bytes=1 << 28, enforce_eager=True)
    scored = engine.generate(
        [{"prompt_token_ids": tokens} for tokens, _ in asked["documents"]],
        SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0),
        use_tqdm=False,
    )
    nats, num_tokens = 0.0, 0
    for (tokens, trained), output in zip(asked["documents"], scored, strict=True):
        for token, is_label, logprobs in zip(tokens[1:], trained[1:], output.prompt_logprobs[1:], strict=True):
            nats -= logprobs[token].logprob * is_label
            num_tokens += is_label
    answered = engine.generate(
        [{"prompt_token_ids": prompt} for prompt in asked["prompts"]],
        SamplingParams(max_tokens=16, temperature=0.0),
        use_tqdm=False,
    )
    answers = [list(output.outputs[0].token_ids) for output in answered]
    print(json.dumps({"nats": nats, "num_tokens": num_tokens, "answers": answers}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
