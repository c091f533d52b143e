"""The keys of `backend=slurm` and the script that they make."""

from __future__ import annotations

import subprocess

import pytest

import mnist_cnn
from mnist_cnn.backends.slurm import SlurmConfig, SlurmService, script
from mnist_cnn.errors import ConfigurationError


def text_of(**settings: object) -> str:
    job = mnist_cnn.make_job(f"train.shards={settings.get('workers', 1)}")
    return SlurmService(SlurmConfig(name="slurm", **settings)).request(job).script  # type: ignore[arg-type]


def test_plan_shows_the_whole_script() -> None:
    lines = dict(mnist_cnn.plan("backend=slurm", "backend.partition=short").lines)
    shown = [line.strip() for line in lines["script"].splitlines()]
    assert shown == [line.strip() for line in text_of(partition="short").splitlines()]
    assert lines["command"] == "sbatch --parsable --job-name=RUN_ID --chdir=RUN/node/RUN_ID"


def test_every_setting_reaches_the_script() -> None:
    text = text_of(
        partition="p",
        account="a",
        qos="q",
        cpus=3,
        memory=5,
        gpus=2,
        max_duration=7,
        python="/opt/my python",
        setup=("module load cuda",),
        sbatch=("--constraint=avx512",),
        preemption_retries=0,
    )
    options = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    for option in ("partition=p", "account=a", "qos=q", "cpus-per-task=3", "mem=5G", "gres=gpu:2", "time=7"):
        assert option in options
    assert {"constraint=avx512", "no-requeue", "export=NIL", "signal=B:TERM@60"} <= set(options)
    assert "\nmodule load cuda\n" in text
    assert "\npython='/opt/my python'\n" in text
    assert "--device gpu" in text


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("quoted", ["it's", 'a "b"', "$(touch x)", "50% \\n", "`id`", "é"])
def test_the_script_is_valid_bash_whatever_is_set(quoted: str, workers: int) -> None:
    text = text_of(python=f"/opt/{quoted}/python", setup=(f"echo {quoted!r}",), workers=workers)
    subprocess.run(("/bin/bash", "-n"), input=text.encode(), check=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, value)
            for key in ("partition", "account", "qos")
            for value in ("a b", "--wrap=x", "a\nb", "a#b")
        ),
        ("python", "a\nb"),
        ("python", "\x1b[2J"),
        ("setup", ("true\n#SBATCH --uid=0",)),
        ("setup", ("true \\",)),
        ("setup", (" ",)),
        ("sbatch", ("constraint=x",)),
        ("sbatch", ("-C x",)),
        ("sbatch", ("--constraint=a b",)),
        ("sbatch", ("--constraint=a\n#SBATCH --uid=0",)),
        ("sbatch", ("--comment='x",)),
        ("sbatch", ("--comment=a#b",)),
        *(
            ("sbatch", (option,))
            for option in ("--array=1-3", "--wrap=x", "--output=x", "--job-n=x", "--wait")
        ),
        *(("sbatch", (option,)) for option in ("--time=5", "--part=x", "--requeue", "--mem=5")),
    ],
)
def test_a_value_that_could_add_a_line_or_an_option_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"backend\.{key}=") as caught:
        SlurmConfig(name="slurm", **{key: value})  # type: ignore[arg-type]
    assert caught.value.hint


def test_lists_of_texts_are_read_from_the_command_line() -> None:
    overrides = ("backend=slurm", 'backend.setup=["module load cuda"]', 'backend.sbatch=["--constraint=a"]')
    lines = dict(mnist_cnn.plan(*overrides).lines)
    assert "module load cuda" in lines["script"]
    assert "#SBATCH --constraint=a" in lines["script"]


def test_an_exact_job_does_not_ask_for_a_gpu() -> None:
    config = SlurmConfig(name="slurm", gpus=1)
    with pytest.raises(ConfigurationError, match="exact trains on the CPU only"):
        script.request(mnist_cnn.make_job("train.numerics=exact"), config)


def test_one_worker_needs_no_srun() -> None:
    text = text_of(cpus=3, memory=5)
    assert "#SBATCH --nodes=1\n#SBATCH --ntasks=1\n" in text
    assert "#SBATCH --mem=5G\n" in text
    assert not {"srun", "--workers", "MNIST_CNN_TOKEN"} & {*text.split()}


def test_several_workers_are_tasks_on_as_many_nodes_as_slurm_likes() -> None:
    text = text_of(workers=4, cpus=3, memory=5)
    assert "#SBATCH --ntasks=4\n#SBATCH --cpus-per-task=3\n" in text
    assert "#SBATCH --mem-per-cpu=1707M\n" in text
    assert "--nodes=1\n" not in text
    assert "srun --export=ALL --mpi=none --ntasks=4 --cpus-per-task=3 \\\n" in text
    assert "--device cpu --workers 4 &\n" in text


def test_plan_says_how_many_workers_train() -> None:
    lines = dict(mnist_cnn.plan("backend=slurm", "backend.workers=2", "train.shards=4").lines)
    assert lines["workers"] == "2 tasks; Slurm chooses their nodes"
    assert "--workers 2 &" in lines["script"]
    assert "2 workers, each with 4 CPUs" in SlurmService(SlurmConfig(name="slurm", workers=2)).nodes


def test_workers_that_cannot_share_the_shards_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(ConfigurationError, match=r"backend\.workers=3 does not divide train\.shards=4"):
        mnist_cnn.plan("backend=slurm", "backend.workers=3", "train.shards=4")
    with pytest.raises(ConfigurationError, match=r"backend\.workers=2 train on CPUs, but backend\.gpus=1"):
        SlurmConfig(name="slurm", workers=2, gpus=1)
