"""The server process of a host.

It reads what it needs as one line of JSON, takes the calls of all ranks one by one, and ends with them: when all have
left, and also when one of them is lost, after it has told the others.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING

import torch
from dgl.distributed import rpc
from dgl.distributed.kvstore import KVServer

from distgnn.backends.dgl.launch import ServerConfig
from distgnn.backends.dgl.rows import ServerRows, remove_names
from distgnn.backends.dgl.service import Service, lost
from distgnn.backends.dgl.sockets import Connections
from distgnn.backends.dgl.wire import (
    QUEUE_BYTES,
    BadSignatureError,
    Call,
    CodeRefusedError,
    Reply,
    ip_config,
    open_wire,
    read_code,
    read_data,
)

if TYPE_CHECKING:
    from typing import NoReturn

_LOOK_SECONDS = 0.2
_FLUSH_SECONDS = 0.3


def main() -> None:
    """Serve until the ranks have ended."""
    config = ServerConfig(**json.loads(sys.stdin.readline()))
    started = Event()
    Thread(target=_end_with_starter, args=(config.job, started), daemon=True).start()
    ctypes.CDLL(None).prctl(1, 0)  # from here on it tells the other ranks before it ends
    limit = Timer(config.timeout, _end, (config.job, 3))
    limit.daemon = True
    limit.start()
    torch.set_num_threads(config.threads)
    open_wire(config.secret)
    own = config.addresses[config.part]
    with ip_config(config.addresses) as path:
        store = KVServer(config.part, path, 1, config.world_size)
    read = read_code if config.is_private else read_data
    service = Service(ServerRows(store), config.part, len(config.addresses), config.world_size, read)
    peers = _accept(config)
    connections = Connections(own, peers.values(), config.timeout)
    limit.cancel()
    started.set()
    _serve(config, service, peers, connections)


def _accept(config: ServerConfig) -> dict[int, str]:
    """Wait for the ranks, connect back to each, and return where it listens."""
    address, port = config.addresses[config.part].split(":")
    rpc.set_rank(config.part)
    rpc.create_sender(QUEUE_BYTES)
    rpc.create_receiver(QUEUE_BYTES)
    rpc.wait_for_senders(address, int(port), config.world_size)
    rpc.set_num_client(config.world_size)
    peers: dict[int, str] = {}
    while len(peers) < config.world_size:
        call = _next_call()
        if call is not None:
            peers[call.rank] = call.about
    for rank, peer in peers.items():
        rpc.connect_receiver(*peer.split(":"), rank, 0)
    if not rpc.connect_receiver_finalize(1):
        _end(config.job, 4)
    for rank in peers:
        rpc.send_response(rank, Reply(1, config.part), 0)
    return peers


def _next_call() -> Call | None:
    try:
        call, _, _ = rpc.recv_request(int(_LOOK_SECONDS * 1000))
    except (BadSignatureError, CodeRefusedError) as error:
        sys.stderr.write(f"distgnn's DGL server: {error}\n")
        return None
    return call if isinstance(call, Call) else None


def _serve(config: ServerConfig, service: Service, peers: dict[int, str], connections: Connections) -> NoReturn:
    looked = 0.0
    while True:
        call = _next_call()
        if call is not None:
            for rank, reply in service.answer(call):
                rpc.send_response(rank, reply, 0)
        now = time.monotonic()
        if call is not None and now - looked < _LOOK_SECONDS:
            continue
        looked = now
        ended = connections.lost()
        dead = [rank for rank, peer in peers.items() if peer in ended and rank not in service.gone]
        reason = lost(dead, "gone") if dead else service.missing()
        service.gone.update(dead)
        if reason:
            for rank, peer in peers.items():
                if peer not in ended:
                    rpc.send_response(rank, Reply(0, config.part, "PeerLostError", reason), 0)
            time.sleep(_FLUSH_SECONDS)
            _end(config.job, 1)
        if len(service.gone) == config.world_size:
            time.sleep(_FLUSH_SECONDS)
            _end(config.job, 0)


def _end_with_starter(job: str, started: Event) -> None:
    """End when the rank that started this server ends before all have connected."""
    sys.stdin.read()
    if not started.is_set():
        _end(job, 5)


def _end(job: str, code: int) -> NoReturn:
    # libdgl's threads are left behind: some wait for peers that are gone.
    remove_names(job)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
