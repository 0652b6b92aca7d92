"""`rayloom ui`: serves the web application until it is stopped."""

from __future__ import annotations

import argparse
import importlib
import os
import secrets
import threading
from pathlib import Path

import uvicorn

from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.observe.ports import check_port
from rayloom.observe.progress import say
from rayloom.ui.application import application
from rayloom.ui.protection import Access, is_loopback, names_of_machine
from rayloom.ui.workbench import Workbench

KEY_VARIABLE = "RAYLOOM_UI_KEY"


def ui(options: argparse.Namespace) -> None:
    """Prints the address, and serves."""
    workbench = workbench_of(options)
    check_port(options.host, options.port, f"Stop what listens there, or take another: --port {options.port + 1}.")
    access = workbench.access
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    host = f"[{host}]" if ":" in host else host
    say(f"store: {workbench.store.uri} ({'things can be changed' if access.may_write else 'only read'})")
    say(f"http://{host}:{options.port}/" + (f"?key={access.key}" if access.key else ""))
    threading.Thread(target=warm, name="warm", daemon=True).start()
    uvicorn.run(
        application(workbench), host=options.host, port=options.port, log_level="warning", server_header=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip


def warm() -> None:
    """Imports what the first page of rows would wait for: seconds on a busy machine."""
    for module in ("pyarrow.parquet", "pyarrow.compute", "tokenizers", "rayloom.ui.rows.table_file"):
        importlib.import_module(module)


def workbench_of(options: argparse.Namespace) -> Workbench:
    """The server's state. A key is made where others could reach it, and where things can be changed."""
    store = Store(options.store) if options.store else Store.beside(Path.cwd())
    return Workbench(store, access_of(options, options.write), options.address)


def access_of(options: argparse.Namespace, may_write: bool) -> Access:
    """What a server allows. Raises InputError if a key from the environment is too short."""
    needs_key = may_write or not is_loopback(options.host)
    key = os.environ.get(KEY_VARIABLE) or secrets.token_urlsafe(24)
    if needs_key and len(key) < 16:
        raise InputError(f"{KEY_VARIABLE} has {len(key)} characters", fix="Take 16 or more that nobody can guess.")
    names = names_of_machine(options.host) | {name.lower() for name in options.name}
    return Access(options.port, frozenset(names), key if needs_key else None, may_write)
