"""The files of the page on clusters, run with what SLURM and Kubernetes tell a process; neither is needed here."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from distgnn.distributed.rendezvous.launcher import unlaunched
from tests.docs.test_docs import ROOT, blocks_of
from tests.jobs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "docs/how-to/run-on-a-cluster.md"
GRAPH = "--dataset CustomLargeGraph --num-nodes 60 --num-edges 300 --use-dist-embedding --embedding-dim 8 --epochs 2"
# As srun does, each task has the job's variables and its own; it ends with the largest exit code of its tasks.
SRUN = """#!/bin/bash
[ -z "${SRUN_ENDS_WITH:-}" ] || exit "$SRUN_ENDS_WITH"
for task in 0 1; do
    SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NODELIST=node7 \\
        SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    tasks+=($!)
done
worst=0
for task in "${tasks[@]}"; do
    code=0
    wait "$task" || code=$?
    [ "$code" -le "$worst" ] || worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> requeued
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script, with the commands of SLURM in its PATH, and this Python."""
    commands = tmp_path / "bin"
    commands.mkdir()
    python = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", python)):
        (commands / name).write_text(text)
        (commands / name).chmod(stat.S_IRWXU)
    variables = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "node7",
    }
    return {**unlaunched(), "PATH": f"{commands}:{os.environ['PATH']}", **variables, "SLURM_SUBMIT_DIR": str(tmp_path)}


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script is for bash")
def test_the_batch_script_trains_on_the_tasks_of_a_step(cluster: dict[str, str], tmp_path: Path) -> None:
    finished = batch(cluster, tmp_path, *GRAPH.split())
    assert finished.returncode == 0, finished.stderr
    run = tmp_path / "runs" / f"job-{cluster['SLURM_JOB_ID']}"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert len(json.loads((run / "result.json").read_text())["peak_memory_mb"]) == 2, "one number a rank"
    assert not list(tmp_path.glob("secret-*"))
    assert not (tmp_path / "requeued").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script is for bash")
@pytest.mark.parametrize("code", [1, 3])
def test_the_batch_script_goes_back_into_the_queue_after_a_save(
    cluster: dict[str, str], tmp_path: Path, code: int
) -> None:
    assert batch({**cluster, "SRUN_ENDS_WITH": str(code)}, tmp_path).returncode == code
    requeued = tmp_path / "requeued"
    assert (requeued.read_text() if requeued.exists() else "") == (
        f"requeue {cluster['SLURM_JOB_ID']}\n" if code == 3 else ""
    )
    assert not list(tmp_path.glob("secret-*"))


def batch(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = folder / "train.sbatch"
    script.write_text(next(block.text for block in blocks_of(PAGE) if block.language == "bash"))
    command = ["bash", str(script), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_job_of_kubernetes_trains_with_what_it_sets(cluster: dict[str, str], tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with mkdocs")
    text = next(block.text for block in blocks_of(PAGE) if block.language == "yaml")
    service, job = yaml.safe_load_all(text)
    pod = job["spec"]["template"]["spec"]
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}, "the label that a Job gives its pods"
    assert pod["subdomain"] == service["metadata"]["name"], "or pods have no names"
    container = pod["containers"][0]
    variables = dict(values(container["env"]))
    size = job["spec"]["completions"]
    assert (variables["WORLD_SIZE"], job["spec"]["parallelism"]) == (str(size), size), "all ranks at once"
    # Kubernetes names the pods of an Indexed Job by its name and their index, within the subdomain.
    assert variables["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "DISTGNN_SECRET": "a secret of 20 letters"}
    arguments = [argument.replace(mounted["runs"], str(tmp_path)) for argument in container["args"]]
    started = [
        subprocess.Popen(
            [*container["command"], *arguments],
            env={**unlaunched(), "PATH": cluster["PATH"], **variables, **here, "JOB_COMPLETION_INDEX": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            text=True,
        )
        for index in range(size)
    ]
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * size, said
    assert len((tmp_path / "job" / "metrics.jsonl").read_text().splitlines()) == 2


def values(variables: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield each variable of a container; one of a secret, which the cluster has, with its key."""
    for variable in variables:
        yield variable["name"], variable.get("value") or variable["valueFrom"]["secretKeyRef"]["key"]
