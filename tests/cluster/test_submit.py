"""What would be submitted, without a SLURM: commands, scripts, what is owed, and what is refused."""

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from pbt.cluster import run as cluster_run
from pbt.cluster.run import STAGES, ClusterRun, new_run
from pbt.cluster.script import hand_scripts, job_script
from pbt.cluster.slurm import DEFAULT_MAX_ARRAY
from pbt.cluster.status import run_status
from pbt.cluster.submit import plan, preview, ranges
from pbt.config import RunConfig, SlurmConfig, load_config
from pbt.errors import BadInput
from pbt.evaluation.suite import EVALUATIONS
from pbt.provenance import provenance
from pbt.store import Shard, TreeStore
from scripted_run import launch, write_run

Pbt = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit from, on a machine without SLURM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", without_slurm(tmp_path))
    return tmp_path


def without_slurm(folder: Path) -> str:
    """A PATH on which git is, and no sbatch."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "git").symlink_to("/usr/bin/git")
    return str(tools)


def config(*overrides: str, questions: int = 30) -> RunConfig:
    return load_config(write_run(Path.cwd(), questions), overrides)


def a_run(*overrides: str, shards: int = 1, questions: int = 30) -> ClusterRun:
    return new_run(config(*overrides, questions=questions), Path("runs/x"), Path("trees/x"), shards)


def test_the_pipeline_is_a_chain_in_which_each_stage_waits_for_the_one_before() -> None:
    commands = [shlex.split(each.command) for each in preview(plan(a_run("slurm.throttle=2", shards=4), STAGES))]
    assert [command[-1] for command in commands] == [
        f"runs/x/slurm/scripts/00{number}-{stage}.sbatch" for number, stage in enumerate(STAGES)
    ]
    assert [word for command in commands for word in command if word.startswith("--array")] == [
        *("--array=0-3%2", "--array=0", "--array=0-2", "--array=0-2", "--array=0")
    ]
    assert [word for command in commands for word in command if word.startswith("--dependency")] == [
        *("--dependency=afterok:<000-generate>", "--dependency=afterok:<001-build-prefs>"),
        *("--dependency=afterok:<002-sft>", "--dependency=afterok:<003-dpo>"),
    ]


def test_a_dry_run_needs_no_slurm_and_leaves_nothing(pbt: Pbt, data: Path, tmp_path: Path) -> None:
    home = data.parent
    asked = (
        "slurm",
        "submit",
        "all",
        "configs/pocket.yaml",
        "--shards",
        4,
        "--set",
        "name=dry",
        "--set",
        "slurm.gpus=2",
    )
    shown = pbt(*asked, "--dry-run").stdout
    assert shown.count("\nsbatch ") + shown.startswith("sbatch ") == 5
    assert "#SBATCH --gpus-per-node=2" in shown
    assert '--shard "$SLURM_ARRAY_TASK_ID/4" &' in shown
    assert not (home / "runs" / "dry").exists()
    refused = pbt(*asked, check=2)
    assert refused.stderr == (
        "pbt: sbatch is not on the PATH; log in where SLURM's commands are, "
        "or see what would be submitted with --dry-run\n"
    )


def test_a_stage_asks_for_its_own_resources_where_it_has_some() -> None:
    run = a_run(
        "slurm={partition: gpu, gpus: 4, time: '24:00:00', mem: 64G}",
        "slurm.preferences={partition: cpu, gpus: 0, time: '1:00:00'}",
    )
    grow, build = job_script(run, "generate"), job_script(run, "build-prefs")
    assert asked(grow)[1:5] == ["--partition=gpu", "--time=24:00:00", "--mem=64G", "--gpus-per-node=4"]
    assert asked(build)[1:4] == ["--partition=cpu", "--time=1:00:00", "--mem=64G"]
    assert "--signal=B:USR1@120" in asked(grow) and "--signal=B:USR1@120" not in asked(build)


def test_a_training_that_has_several_gpus_runs_a_process_on_each_and_is_told_before_its_time_is_up() -> None:
    run = a_run("slurm={gpus: 1}", "slurm.dpo.gpus='a100:4'")
    one, four = job_script(run, "sft"), job_script(run, "dpo")
    assert "--gpus" not in one.partition(" train sft ")[2] and "--out runs/x --gpus 4 --regime" in four
    assert all("--signal=B:USR1@120" in asked(script) and "scontrol requeue" in script for script in (one, four))


def asked(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_more_shards_than_an_array_may_have_are_cut_into_several() -> None:
    shards = 2 * DEFAULT_MAX_ARRAY + 7
    (step,) = plan(a_run("slurm.throttle=9", shards=shards, questions=1000), ["generate"])
    assert [array.first for array in step.arrays] == [0, DEFAULT_MAX_ARRAY, 2 * DEFAULT_MAX_ARRAY]
    tasks = [task for array in step.arrays for task in array.tasks]
    assert tasks == sorted(set(tasks)) and tasks[-1] > 2 * DEFAULT_MAX_ARRAY
    for array in step.arrays:
        indexes = [task - array.first for task in array.tasks]
        assert max(indexes) < DEFAULT_MAX_ARRAY
        assert f"--array={ranges(indexes)}%3" in array.options(())
    assert f'--shard "$((SLURM_ARRAY_TASK_ID + {DEFAULT_MAX_ARRAY}))/{shards}"' in step.arrays[1].text


def test_only_shards_that_owe_questions_are_submitted(tmp_path: Path) -> None:
    run = a_run(shards=4)
    for shard in ("1/4", "2/4"):
        launch(tmp_path, run.trees, shard)
    (step,) = plan(run, ["generate"])
    assert [array.tasks for array in step.arrays] == [(0, 3)]
    assert step.finished == 2


def test_a_failed_question_is_not_owed(tmp_path: Path) -> None:
    run = a_run(questions=3)
    store = TreeStore(
        run.trees, Shard(0, 1), provenance(run.config, "generate", run.config.generation()), run.config.generation()
    )
    store.fail("q1", RuntimeError("no"))
    store.close()
    assert cluster_run.count_questions(run) == [(0, 1, 2)]
    launch(tmp_path, run.trees, "0/1")
    (step,) = plan(run, ["generate"])
    assert not step.arrays


def test_a_stage_is_refused_while_the_one_before_it_owes_something(tmp_path: Path) -> None:
    run = a_run(shards=4)
    with pytest.raises(BadInput, match=r"build-prefs: generate comes before it .*shards 0-3 of 4 owe 30 questions"):
        plan(run, ["build-prefs"])
    for shard in range(4):
        launch(tmp_path, run.trees, f"{shard}/4")
    assert [array.stage for step in plan(run, ["build-prefs"]) for array in step.arrays] == ["build-prefs"]


def test_a_model_that_is_there_is_not_trained_again(tmp_path: Path) -> None:
    run = a_run()
    launch(tmp_path, run.trees, "0/1")
    (tmp_path / "runs" / "x" / "sft-resist").mkdir(parents=True)
    steps = plan(run, STAGES)
    assert [array.tasks for step in steps if step.stage == "sft" for array in step.arrays] == [(0, 2)]


def test_nothing_of_a_configuration_but_setup_reaches_the_shell(tmp_path: Path) -> None:
    trap = "$(touch caught) `touch caught`; touch caught 'x"
    run = new_run(
        config(
            f"models.two.path={json.dumps(trap)}",
            f"slurm.container={json.dumps(['echo', trap])}",
            "slurm.setup=['touch set-up']",
        ),
        Path("runs", trap),
        Path("trees", trap),
        1,
    )
    for stage in STAGES:
        script = tmp_path / "job.sh"
        script.write_text(job_script(run, stage))
        done = subprocess.run(
            ["/bin/bash", str(script)],
            env={"SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{trap} pbt " in done.stdout
        assert f"runs/{trap}" in done.stdout
    assert (tmp_path / "set-up").exists()
    assert not (tmp_path / "caught").exists()


@pytest.mark.parametrize(
    "override",
    [
        "slurm.partition='gpu --uid=0'",
        'slurm.account="a\\nrm -rf x"',
        "slurm.constraint='$(x)'",
        "slurm.mem='1G;x'",
        "slurm.gpus='a b:1'",
        'slurm.setup=["one\\ntwo"]',
        "slurm.evaluation='all; x'",
        "slurm.time=24:00:00",
    ],
)
def test_a_value_that_is_no_plain_word_is_refused(override: str) -> None:
    with pytest.raises(BadInput, match=override.partition("=")[0]):
        config(override)


def test_slurm_may_run_every_evaluation() -> None:
    known = get_args(SlurmConfig.model_fields["evaluation"].annotation)
    assert known == (*EVALUATIONS, "all")


def test_a_set_up_line_that_fails_ends_the_job_with_its_exit_code(tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(job_script(a_run("slurm.setup=['(exit 7)']", "slurm.container=[echo]"), "eval"))
    done = subprocess.run(
        ["/bin/bash", str(script)], env={"SLURM_JOB_ID": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7
    assert done.stdout.endswith("== job 1 ends with exit code 7\n")


def test_a_run_folder_of_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    run = a_run()
    record(run)
    with pytest.raises(BadInput, match=r"runs/x: belongs to a run of another configuration \(seed: 0 -> 1\)"):
        a_run("seed=1")
    launch(tmp_path, run.trees, "0/1")
    with pytest.raises(BadInput, match=r"trees/x: its trees were grown under another configuration \(seed: 0 -> 1\)"):
        new_run(config("seed=1"), Path("runs/y"), Path("trees/x"), 1)


def record(run: ClusterRun, job: str = "7", tasks: tuple[int, ...] = (0,)) -> None:
    """Write down a submission as if SLURM had taken it."""
    book = cluster_run.Record(run.folder)
    with book.alone():
        cluster_run.save_config(run)
        book.add(cluster_run.submission(run, job, "generate", 0, tasks, (), Path("x.sbatch")))


def test_two_submissions_at_a_time_are_refused() -> None:
    run = a_run()
    with (
        cluster_run.Record(run.folder).alone(),
        pytest.raises(BadInput, match="another 'pbt slurm' is at it"),
        cluster_run.Record(run.folder).alone(),
    ):
        pass


def test_a_folder_without_submissions_is_named(pbt: Pbt) -> None:
    for command in ("status", "resubmit", "cancel"):
        assert "runs/none: nothing was submitted for this run" in pbt("slurm", command, "runs/none", check=2).stderr


def test_the_status_comes_from_files_alone_where_there_is_no_slurm(tmp_path: Path) -> None:
    run = a_run(shards=3)
    record(run, tasks=(0, 1, 2))
    launch(tmp_path, run.trees, "0/3")
    logs = run.home / "logs"
    logs.mkdir()
    start = "== job 7 starts on here at 2030-01-01T00:00:00Z, restart {}\n"
    (logs / "generate-7_1.log").write_text(
        start.format(0) + "3/9 trees, 41 turns/s, 500 tokens/s\n== job 7 requeues itself\n"
        "== job 7 ends with exit code 4\n" + start.format(1) + "CUDA out of memory\n== job 7 ends with exit code 1\n"
    )
    (logs / "generate-7_2.log").write_text(start.format(0) + "1/9 trees, 7 turns/s, 60 tokens/s\n")
    tasks = run_status(run).tasks
    assert [(task.state, task.detail) for task in tasks] == [("DONE", ""), ("OWED", "exit code 1"), ("STARTED", "")]
    assert [task.restarts for task in tasks] == [0, 1, 0]
    assert [task.turns_per_second for task in tasks] == [None, 41, 7]
    assert [task.last_line for task in tasks] == [None, "CUDA out of memory", "1/9 trees, 7 turns/s, 60 tokens/s"]
    assert all(
        task.done + task.owed == len([0 for q in range(30) if Shard(i, 3).owns(f"q{q}")])
        for i, task in enumerate(tasks)
    )
    assert len(run_status(run).lines()) == 4


def test_several_nodes_are_for_models_on_ray() -> None:
    with pytest.raises(BadInput, match="generate asks for 2 nodes and would use one"):
        job_script(a_run("slurm.generate.nodes=2"), "generate")
    script = job_script(a_run("slurm.generate.nodes=2", "models.one.ray={address: auto}"), "generate")
    assert "--nodes=2" in asked(script) and "--no-kill" in asked(script)
    assert "start --head" in script and "await-ray" in script
    assert "start --head" not in job_script(a_run("models.one.ray={address: 'head:6379'}"), "generate")


def test_the_grace_of_the_job_must_outlast_that_of_generation() -> None:
    with pytest.raises(BadInput, match=r"slurm.grace: 20 seconds before the end are too few for generate.grace, 30"):
        job_script(a_run("slurm.grace=20"), "generate")


def test_the_plain_scripts_of_the_checkout_are_those_of_the_template(checkout: Path) -> None:
    """If not: ``pbt slurm scripts`` writes them again."""
    there = {path.name: path.read_text() for path in (checkout / "slurm").glob("*.sbatch")}
    assert there == hand_scripts()


def test_every_script_is_good_bash(checkout: Path) -> None:
    for path in (checkout / "slurm").glob("*.sbatch"):
        subprocess.run(["/bin/bash", "-n", str(path)], check=True)


def test_numbers_are_written_as_slurm_writes_them() -> None:
    assert ranges([7, 0, 1, 2, 9, 10]) == "0-2,7,9-10"
