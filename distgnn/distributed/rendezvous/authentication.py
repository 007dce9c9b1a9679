"""The secret of a job, which is never sent."""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path

from distgnn.errors import SecretError

VARIABLE, FILE_VARIABLE = "DISTGNN_SECRET", "DISTGNN_SECRET_FILE"
_LEAST = 16  # characters: who listens can try to guess it at leisure
_ADVICE = "make one by: (umask 077; openssl rand -hex 32 > secret)"


def job_secret() -> bytes:
    """Return the secret of this process's job, from the file ``DISTGNN_SECRET_FILE`` or from ``DISTGNN_SECRET``.

    Returns:
        The secret without white space at its ends; empty where neither is set.

    Raises:
        SecretError: It cannot be read, is short, or others than this user may read the file.
    """
    if FILE_VARIABLE in os.environ:
        path = Path(os.environ[FILE_VARIABLE])
        secret, where = _read(path), f"the secret file {path}"
    elif VARIABLE in os.environ:
        secret, where = os.environ[VARIABLE].encode(), VARIABLE
    else:
        return b""
    secret = secret.strip()
    if len(secret) < _LEAST:
        raise SecretError(f"{where} has {len(secret)} characters, and a secret has at least {_LEAST}: {_ADVICE}")
    return secret


def sign(key: bytes, *words: object) -> bytes:
    """Return what only a holder of the key can say about the words: their HMAC-SHA256."""
    return hmac.digest(key, "\0".join(map(str, words)).encode(), "sha256")


def is_signed(signature: str, key: bytes, *words: object) -> bool:
    """Tell whether a hexadecimal signature is that of a holder of the key; takes as long whatever differs."""
    return hmac.compare_digest(signature.encode(), sign(key, *words).hex().encode())


def _read(path: Path) -> bytes:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would keep this process waiting
        with open(number, "rb") as file:  # noqa: PTH123  # it has no path
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise SecretError(f"the secret file {path} is no regular file")
            if about.st_uid != os.getuid() or about.st_mode & 0o077:
                raise SecretError(
                    f"the secret file {path} has mode {about.st_mode & 0o777:03o} and belongs to user {about.st_uid}, "
                    f"and it must be readable by this user, {os.getuid()}, alone: chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        if isinstance(error, SecretError):
            raise
        raise SecretError(f"the secret file {path} cannot be read ({error}): {_ADVICE}") from error
