"""Checks of a machine before a job."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
import torch

from distgnn._version import __version__
from distgnn.data.datasets import DATASETS
from distgnn.data.public.raw_files import CACHE_VARIABLE, DATA_VARIABLE, cache_folder
from distgnn.distributed.rendezvous.launcher import unlaunched
from distgnn.distributed.rendezvous.ports import usual_port
from distgnn.errors import ConfigError
from distgnn.storage.registry import list_backends

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distgnn.storage.registry import BackendInfo

_TRIAL_SECONDS = 120
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where DGL's servers have rows
_SMALL = 1 << 30
_TRIAL = """
import sys, torch, distgnn
with distgnn.use(sys.argv[1]) as backend:
    table = backend.open_embedding(distgnn.EmbeddingSpec("doctor", 8, 4))
    assert table.lookup(torch.tensor([7, 0, 7])).shape == (3, 4)
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        subject: What it is.
        status: ``"ok"``, ``"note"`` where something may be missed, ``"problem"`` where something cannot work.
        found: What is there.
        fix: What to do about it; empty when nothing is to be done.
    """

    subject: str
    status: Literal["ok", "note", "problem"]
    found: str
    fix: str = ""


def examine() -> Iterator[Finding]:
    """Look at versions, backends, shared memory, the network and data sets, one after the other."""
    yield from _versions()
    yield from _backends()
    yield _shared_memory()
    yield _port()
    yield _network()
    yield _data()
    yield _cache()


def _versions() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    machine = f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} processors"
    yield Finding(
        "machine", "ok", f"{machine}, {memory.available / 1e9:,.1f} of {memory.total / 1e9:,.1f} GB memory free"
    )
    yield Finding("distgnn", "ok", f"{__version__} on Python {platform.python_version()}")
    devices = torch.cuda.device_count()
    where = f"{devices} CUDA device{'s' if devices > 1 else ''}" if devices else "CPU"
    yield Finding("torch", "ok", f"{torch.__version__}, {where}, {torch.get_num_threads()} threads")
    yield _required()
    yield from _dgl()
    yield _optional("pymetis", "metis", "to partition by METIS")
    yield _optional("pytest", "testing", "to test a backend of your own")


def _required() -> Finding:
    """Compare what is installed with what distgnn's metadata ask for."""
    try:
        asked = [line.split(">=") for line in requires("distgnn") or () if ";" not in line and ">=" in line]
    except PackageNotFoundError:
        return Finding("packages", "note", "distgnn is not installed, but run from its source", "pip install -e .")
    found, old = [], []
    for name, least in asked:
        try:
            have = version(name)
        except PackageNotFoundError:
            have = "none"
        found.append(f"{name} {have}")
        if have == "none" or _numbers(have) < _numbers(least):
            old.append(f'"{name}>={least}"')
    if old:
        return Finding("packages", "problem", ", ".join(found), f"pip install -U {' '.join(old)}")
    return Finding("packages", "ok", ", ".join(found))


def _numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", text.partition("+")[0])[:3]]


def _dgl() -> Iterator[Finding]:
    """Compare torch with those that DGL's GraphBolt was built for, which its files tell."""
    try:
        names = [file.name for file in files("dgl") or ()]
        found = f"{version('dgl')} beside torch {torch.__version__}"
    except PackageNotFoundError:
        return  # the backend says so
    built_for = re.findall(r"libgraphbolt_pytorch_([\d.]+)\.so", " ".join(names))
    if torch.__version__.partition("+")[0] in built_for:
        yield Finding("dgl", "ok", f"{found}, GraphBolt too")
        return
    known = ", ".join(sorted(built_for, key=_numbers)) or "none of them"
    yield Finding(
        "dgl",
        "note",
        f"{found}: its GraphBolt was built for torch {known}, and is left out, which distgnn never needs",
        f"only to use GraphBolt yourself: pip install torch=={max(built_for, key=_numbers)}" if built_for else "",
    )


def _optional(name: str, extra: str, why: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "note", f"not installed; it is needed {why}", f'pip install "distgnn[{extra}]"')


def _backends() -> Iterator[Finding]:
    """Open every backend that is available, each in a process of its own, several at once."""
    with ThreadPoolExecutor(psutil.cpu_count()) as pool:
        yield from pool.map(_try, list_backends())


def _try(backend: BackendInfo) -> Finding:
    """Open a backend alone, and look a row up."""
    subject = f"backend {backend.name}"
    if not backend.available:
        needed = backend.reason.rpartition(": ")[2] if "pip install" in backend.reason else "see what its package needs"
        return Finding(subject, "note", backend.reason, needed)
    command = [sys.executable, "-c", _TRIAL, backend.name]
    try:
        done = subprocess.run(  # noqa: S603
            command, env=unlaunched(), capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        fix = "see what it waits for: open it in Python by distgnn.use(...)"
        return Finding(subject, "problem", f"did not open in {_TRIAL_SECONDS} s", fix)
    if done.returncode:
        error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        fix = "see that its engine runs and is reached from here, and which options distgnn.use(...) needs"
        return Finding(subject, "problem", f"{backend.source}: {error}", fix)
    return Finding(subject, "ok", f"{backend.about or backend.source}: opened, and a row was looked up")


def _shared_memory() -> Finding:
    """DGL's servers have rows there; ``pyg`` shares memory that has no name and no limit of its own."""
    if not _SHARED_MEMORY.is_dir():
        return Finding("shared memory", "note", f"there is no {_SHARED_MEMORY}, which backend dgl needs", "use pyg")
    free = shutil.disk_usage(_SHARED_MEMORY).free
    found = f"{free / 1e9:,.1f} GB free in {_SHARED_MEMORY}"
    if free < _SMALL:
        fix = "docker run --shm-size=..., or mount -o remount,size=... " + str(_SHARED_MEMORY)
        return Finding("shared memory", "note", f"{found}: backend dgl has its rows there", fix)
    return Finding("shared memory", "ok", found)


def _port() -> Finding:
    try:
        port = usual_port()
    except ConfigError as error:
        return Finding("ports", "note", str(error), "export it anew, or unset it")
    subject = f"port {port}"
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        fix = "name another one: behind rank 0 in the ip_config file, or torchrun --master-port"
        return Finding(subject, "note", f"cannot be listened on ({error.strerror or error})", fix)
    return Finding(subject, "ok", "free, for ranks to meet at")


def _network() -> Finding:
    """Ranks of several hosts connect to each other on the address of the host's name, unless an interface is named."""
    addresses = {
        interface: [one.address for one in found if one.family == socket.AF_INET]
        for interface, found in psutil.net_if_addrs().items()
    }
    listed = ", ".join(f"{name} {' '.join(found)}" for name, found in addresses.items() if found)
    outside = [name for name, found in addresses.items() if any(not one.startswith("127.") for one in found)]
    named = os.environ.get("GLOO_SOCKET_IFNAME")
    if named is not None and named not in addresses:
        return Finding("network", "problem", f"GLOO_SOCKET_IFNAME={named} is none of {listed}", "name one of them")
    try:
        own = socket.gethostbyname(socket.gethostname())
    except OSError:
        own = ""
    if named is None and outside and (not own or own.startswith("127.")):
        found = f"{listed}; this host's name leads to {own or 'no address'}, where other hosts do not reach it"
        fix = f"for several hosts use --ip-config, or export GLOO_SOCKET_IFNAME={outside[0]}"
        return Finding("network", "note", found, fix)
    return Finding("network", "ok", listed)


def _data() -> Finding:
    home = os.environ.get(DATA_VARIABLE)
    if not home:
        found = f"{DATA_VARIABLE} is not set: data sets are downloaded when they are asked for"
        return Finding("data sets", "note", found, f"export {DATA_VARIABLE}=... to a folder of NAME/raw/ folders")
    if not Path(home).is_dir():
        return Finding("data sets", "problem", f"{DATA_VARIABLE}={home} is no folder", "make it, or unset the variable")
    there = [name for name in DATASETS if Path(home, name, "raw").is_dir()]
    return Finding("data sets", "ok", f"in {home}: {', '.join(there) or 'none'}")


def _cache() -> Finding:
    """What is processed or downloaded goes there; it is made when it is needed, in the nearest folder that is there."""
    folder = cache_folder()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(
            "cache", "problem", f"{folder} cannot be written", f"export {CACHE_VARIABLE}=... to one that can"
        )
    free = shutil.disk_usage(there).free
    found = f"{folder}, {free / 1e9:,.1f} GB free"
    if free < _SMALL:
        return Finding("cache", "note", found, f"export {CACHE_VARIABLE}=... to a folder on a disk with more")
    return Finding("cache", "ok", found)
