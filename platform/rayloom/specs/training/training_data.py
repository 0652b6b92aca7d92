"""`data` of a training job: what it reads, and on which of its tokens it is trained."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rayloom.specs.base import CorpusRef, Share, Spec
from rayloom.specs.row_files import SourceOfRows


class CorpusData(Spec):
    """Packed token shards made by a `clean` job; the loss is over every token."""

    type: Literal["corpus"]
    corpus: CorpusRef
    """The corpus, made by a job of kind clean."""
    streamed: bool = False
    """For a corpus larger than a node's disk: nodes fetch its shards while they train, and keep few. The order of rows
    is another one: they are mixed over as many shards as a step has micro-batches, and within each over a window."""


RowProblem = Literal[
    "unreadable",
    "missing_column",
    "unsupported_key",
    "bad_mark",
    "not_a_conversation",
    "not_text",
    "roles_out_of_order",
    "not_the_assistants",
    "empty_question",
    "empty_answer",
    "no_answer",
    "stop_token_in_answer",
    "no_trained_token",
    "bad_tool",
    "unrenderable",
    "same_answers",
]
"""The reasons for which a row of conversations is bad."""

RESERVED_TEMPLATE_KWARGS = frozenset(
    (
        *("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"),
        *("tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "add_special_tokens"),
    )
)
"""Variables that the renderer passes to a chat template; jobs and rows must not set them."""


def _check_template_kwargs(kwargs: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
    reserved = sorted(set(kwargs) & RESERVED_TEMPLATE_KWARGS)
    if reserved:
        raise ValueError(f"{', '.join(reserved)} is set by the renderer itself")
    return kwargs


TemplateKwargs = Annotated[dict[str, bool | int | float | str], AfterValidator(_check_template_kwargs)]
"""Variables for the chat template, such as `enable_thinking: false`."""
IgnoredKeys = tuple[str, ...]
"""Keys of rows and messages that are ignored."""


class ConversationSource(SourceOfRows):
    """Rows of a data set read as conversations."""

    format: Literal["alpaca", "messages", "sharegpt", "prompt_completion"] | None = None
    """How conversations are written in the files. Default: the form whose columns a row has."""
    fill: dict[str, str] = Field(default_factory=dict)
    """Text that replaces `{{key}}` in every row, such as the name and author in an identity set."""
    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """Most rows taken, chosen by the seed. Default: all."""
    max_row_tokens: Annotated[int, Field(ge=8)] | None = None
    """Rows longer than this are left out and counted, before limit_rows is applied."""
    repeat: Annotated[int, Field(ge=1)] = 1
    """How often each row is used in an epoch."""
    ignore_keys: IgnoredKeys = ()
    """Keys of rows and messages to read as if they were not there; jobs/reference/rows.md says what each key means."""


class ConversationData(Spec):
    """Conversations rendered with the model's chat template; the loss is over the assistant's tokens only."""

    type: Literal["conversations"]
    sources: Annotated[tuple[ConversationSource, ...], Field(min_length=1)]
    """Data sets whose rows are read one after the other."""
    heldout_rows: Annotated[int, Field(ge=1)] = 100
    """Rows kept for evaluation and never trained on, from sources that are not repeated; a seed always gives the same
    rows."""
    length_policy: Literal["error", "drop", "truncate"] = "error"
    """What to do with a conversation longer than sequence_length_tokens."""
    max_length_policy_share: Share = 0.01
    """Part of the rows that `drop` or `truncate` may change; the job fails if there are more."""
    leave_out: tuple[RowProblem, ...] = ()
    """Rows with these problems are left out and counted; any other problem stops the job, every such row named."""
    template: Literal["chatml", "gemma", "llama3", "zephyr"] | None = None
    """Chat template for a base model without one. Tokens that it needs are added to the vocabulary and trained."""
    system: str | None = None
    """System message for rows without one. Default: what the chat template writes by itself."""
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    """Settings of the chat template, such as `enable_thinking: false`; a row's own go before them.

    Requests to the server must send the same, or the service must have them as its default."""


class Replay(Spec):
    """General text mixed into the training on another domain, against forgetting; held-out loss is measured on both."""

    corpus: CorpusRef
    """A corpus of general text, made by a job of kind clean with the base's tokenizer."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of all tokens. 0.1 to 0.2 keeps most of what the model knew (Ibrahim et al. 2024)."""
