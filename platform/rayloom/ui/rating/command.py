"""`rayloom rate`: serves the pages of a rating until it is stopped, then publishes what was judged."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import uvicorn

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.observe.ports import check_port
from rayloom.observe.progress import say
from rayloom.specs.base import JobSpec
from rayloom.ui.command import access_of
from rayloom.ui.rating.application import Rating, application
from rayloom.ui.rating.items import RatedItem, compared, pairs, rows, sampled
from rayloom.ui.rating.journal import JudgementJournal, blinding_key
from rayloom.ui.rating.result import STAGE_VERSION, RatingSpec, publish
from rayloom.ui.rating.spot_checks import spot_check

PREDICTIONS, COMPARED, REJECTS = "predictions.jsonl", "answers.jsonl", "rejects"


def rate(options: argparse.Namespace) -> None:
    """Prints the address, and serves; with --finish, publishes the judgements instead."""
    store = Store(options.store) if options.store else Store.beside(Path.cwd())
    artifacts = [store.open(store.resolve(reference)) for reference in options.artifacts]
    options.file = options.file or _usual_file(artifacts)
    items = sampled(_items(artifacts, options), options.rows, options.seed)
    name = options.result or f"{artifacts[0].manifest.name}-ratings"
    file = _journal_file(store, name, artifacts, options)
    with exclusive(file.with_suffix(".lock"), lambda: say(f"another `rayloom rate` writes to {file}; waiting")):
        journal = JudgementJournal(file)
        try:
            if options.finish:
                artifact = finished(store, name, artifacts, items, journal, options)
                say(f"{artifact.id} made: {artifact.place}")
                say(artifact.manifest.headline)
            else:
                _serve(Rating(items, journal, blinding_key(file), options.each), file, options)
        finally:
            journal.close()


def _items(artifacts: list[Artifact], options: argparse.Namespace) -> list[RatedItem]:
    if len(artifacts) > 2:
        raise InputError(
            f"{len(artifacts)} artifacts are named", fix="Two are compared, or the rows of one are judged."
        )
    if len(artifacts) == 2:
        return pairs(artifacts[0], artifacts[1], options.file, options.prompt, options.answer)
    if artifacts[0].manifest.kind == "compare" and options.file == COMPARED:
        return compared(artifacts[0])
    if options.file == REJECTS:
        return spot_check(artifacts[0], options.rows, options.seed)
    return rows(artifacts[0], options.file, options.answer)


def _usual_file(artifacts: list[Artifact]) -> str:
    """What people judge of an artifact, if they name no file."""
    by_kind = {"compare": COMPARED, "clean": REJECTS, "generate": "rows.jsonl"}
    return by_kind.get(artifacts[0].manifest.kind, PREDICTIONS) if len(artifacts) == 1 else PREDICTIONS


def _journal_file(store: Store, name: str, artifacts: list[Artifact], options: argparse.Namespace) -> Path:
    """Where judgements are kept: another one where anything differs that decides what is shown to whom."""
    facts = [*(artifact.id for artifact in artifacts), options.file, options.seed, options.rows]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
    folder = Path(store.root) / ".ratings" if store.is_local else store.cache / "ratings"
    return folder / f"{name}-{digest}.jsonl"


def _serve(rating: Rating, file: Path, options: argparse.Namespace) -> None:
    check_port(options.host, options.port, f"Stop what listens there, or take another: --port {options.port + 1}.")
    access = access_of(options, may_write=False)
    say(f"{len(rating.items)} items, {rating.each} judgements each, {rating.num_done()} made; kept in {file}")
    say(f"http://{options.host}:{options.port}/" + (f"?key={access.key}" if access.key else ""))
    say("Ctrl-C ends it, the same command goes on; with --finish it makes the artifact.")
    app = application(rating, access)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", server_header=False)


def finished(
    store: Store,
    name: str,
    artifacts: list[Artifact],
    items: list[RatedItem],
    journal: JudgementJournal,
    options: argparse.Namespace,
) -> Artifact:
    """The artifact with every judgement. Raises InputError if there is none."""
    judgements = journal.all()
    if not judgements:
        raise InputError("Nothing was judged yet", fix="Run the command without --finish, and rate.")
    digest = hashlib.sha256(json.dumps([asdict(one) for one in judgements]).encode()).hexdigest()
    spec = RatingSpec(
        name=name,
        artifacts=tuple(artifact.id for artifact in artifacts),
        file=options.file,
        seed=options.seed,
        each=options.each,
        judgements_digest=digest,
    )

    def stage(_: JobSpec, folder: Build) -> Outcome:
        return publish(items, judgements, folder)

    parents = {f"artifacts.{number}": artifact for number, artifact in enumerate(artifacts)}
    return build(ResolvedJob(spec, STAGE_VERSION, parents, Path.cwd()), store, stage)[0]
