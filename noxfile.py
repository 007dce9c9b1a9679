"""The tests on each Python that is here, and the distribution as strangers get it.

``nox`` runs everything but the tests on the oldest and the newest versions of what is needed, ``nox -s floors newest``;
``nox -s wheel`` builds the wheel and the source distribution, installs the wheel into a clean environment, and does
there, far from the sources, what a first-time user does.
"""

import shutil
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
DIST = ROOT / "dist"

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


def install(session: nox.Session, *what: str) -> None:
    """Install torch, first and alone as ``make`` does, then the rest."""
    # What constraints.txt pins has no releases for Python 3.10.
    pins = [] if session.python == "3.10" else ["-c", str(ROOT / "constraints.txt")]
    session.install(*pins, "torch")
    session.install(*pins, *what)


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests; ``nox -s tests-3.11 -- tests/optim`` runs some."""
    install(session, "-e", ".[dev]")
    for plugin in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        session.install("--no-deps", "--no-build-isolation", "-e", str(plugin.parent))
    session.run("pytest", *(session.posargs or ["-n", "2", "--dist", "worksteal"]))


@nox.session(python="3.10", default=False)
def floors(session: nox.Session) -> None:
    """Run the tests on the oldest versions that pyproject.toml admits, by hand."""
    some_versions(session, "-c", str(ROOT / "constraints-floors.txt"))


@nox.session(python="3.13", default=False)
def newest(session: nox.Session) -> None:
    """Run the tests on the newest versions of everything, by hand."""
    some_versions(session)


def some_versions(session: nox.Session, *pins: str) -> None:
    """Install what has wheels for them, and run the tests."""
    session.install(*pins, "torch")
    session.install(*pins, "-e", ".[metis,tensorboard,testing]", "pytest-timeout", "pytest-xdist", "import-linter")
    session.run("pytest", *(session.posargs or ["-n", "2", "--dist", "worksteal"]))


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the source distribution, and check what an index would show."""
    session.install("build", "twine")
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(DIST), str(ROOT))
    session.run("twine", "check", "--strict", *map(str, DIST.iterdir()))


@nox.session(requires=["build"])
def wheel(session: nox.Session) -> None:
    """Use the wheel in a clean environment: the commands, a user's typed file, and a user's tests."""
    (built,) = DIST.glob("*.whl")
    install(session, f"{built}[testing]", "mypy")
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        shutil.copy(ROOT / "tests/users/test_users_model.py", ".")
        session.run("distgnn", "backends")
        generated = ("--dataset", "CustomLargeGraph", "--use-dist-embedding", "--embedding-dim", "16")
        session.run("distgnn", "train", *generated, "--epochs", "2")
        session.run("mypy", "--strict", "--explicit-package-bases", "test_users_model.py")
        session.run("pytest", "-q", "test_users_model.py")
        session.run("python", "-m", "distgnn.testing", "memory")
