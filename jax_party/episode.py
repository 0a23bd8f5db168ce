"""An episode of a trained policy as an animation: `python -m jax_party.episode <trial> --out episode.gif`.

The episode is played with the best parameters of the trial's newest checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, whole_number
from jax_party.cli.console import RunConsole
from jax_party.cli.single import quiet_libraries
from jax_party.config import ExperimentConfig, make_budget, parse_config
from jax_party.engines import NATIVE, engine_of
from jax_party.errors import CheckpointError, ConfigError, JaxPartyError, RecordError
from jax_party.runtime import prepare_process
from jax_party.store.local import aside
from jax_party.store.storage import as_folder, store_of
from jax_party.trial import transfer
from jax_party.trial.folder import read_config, read_record
from jax_party.trial.lookup import find_trials
from jax_party.trial.manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from jax_party.envs.adapter import MultiAgentEnv

STEPS: Final = 100
FRAME_MS: Final = 400
FORMATS: Final = (".gif", ".mp4")
_VARIABLES: Final = {"trial": "TRIAL", "--seed": "SEED", "--steps": "STEPS", "--learner": "LEARNER", "--out": "OUT"}


@dataclasses.dataclass(frozen=True)
class PlayedEpisode:
    """An episode, or its beginning.

    Attributes:
      env: the environment that it was played in.
      states: the environment's states, starting before the first step; one more than there are steps.
      rewards: one list per step, with each agent's reward.
      seed: the seed of the learner that played.
      step: environment steps after which the checkpoint was saved.
    """

    env: MultiAgentEnv
    states: list[Any]
    rewards: list[list[float]]
    seed: int
    step: int


def play_episode(folder: Path, seed: int = 0, steps: int = STEPS, learner: int | None = None) -> PlayedEpisode:
    """Play a test episode with the best parameters of a trial's newest checkpoint.

    Args:
      folder: the trial's folder, local.
      seed: the seed of the episode: of the game's randomness and of the policy's.
      steps: the largest number of steps.
      learner: the seed of the learner, if the trial has several; by default the one of the best evaluation.

    Raises:
      CheckpointError: it has no checkpoint that can be read.
      RecordError, ConfigError: the folder or a number is unsuitable.
    """
    if steps < 1:
        raise ConfigError(f"STEPS={steps}: give a number of 1 or more")
    record = read_record(folder)
    mapping = read_config(folder)
    if (engine := engine_of(mapping).name) != NATIVE:
        raise ConfigError(
            f"{folder}: its policy is {engine}'s, and only those of ENGINE=native are played here; its test episodes, "
            "where they were recorded (vault=test), are in its vault"
        )
    config = parse_config(mapping)
    config = dataclasses.replace(config, arch=dataclasses.replace(config.arch, num_devices=1))
    prepare_process(cpu_devices=1)
    from jax_party.training.checkpoint_files import Checkpoints
    from jax_party.training.checkpointing import checkpoint_target
    from jax_party.training.program import get_program, make_hyper

    program = get_program(config)
    hyper = program.put(make_hyper(config, make_budget(config)))
    checkpoints = Checkpoints(folder / "checkpoints", 1, read_only=True)
    try:
        restored = checkpoints.restore(checkpoint_target(program, hyper, config.arch.num_seeds))
    finally:
        checkpoints.close()
    if restored is None:
        raise CheckpointError(f"{folder}: it has no checkpoint ({record.state}); wait for one, or run a trial with "
                              "logger.checkpointing.save_model=true")  # fmt: skip
    step, tree = restored
    chosen = _choose_learner(config, tree["learners"], learner)
    states, rewards = _play(program.system, hyper, tree["learners"][chosen]["best_params"], seed, steps, config)
    env = program.system.env.with_params(hyper.env)
    return PlayedEpisode(env, states, rewards, config.system.seed + chosen, step)


def save_episode(episode: PlayedEpisode, out: Path, frame_ms: int = FRAME_MS) -> None:
    """Write an episode as a `.gif`, or as an `.mp4` with ffmpeg.

    Raises:
      ConfigError: `out` has another suffix, ffmpeg is missing, or the file cannot be written.
    """
    check_out(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with aside(out, durable=False, name=f".{out.stem}.new{out.suffix}") as place:
            episode.env.animate(episode.states, frame_ms, str(place))
    except OSError as error:
        raise ConfigError(f"OUT={out}: cannot be written ({error.strerror}); name another file") from error


def check_out(out: Path) -> None:
    """Refuse a file that could not be made, before anything is played."""
    if out.suffix not in FORMATS:
        raise ConfigError(f"OUT={out}: name a file that ends in {' or '.join(FORMATS)}")
    if out.suffix == ".mp4":
        from matplotlib.animation import writers

        if not writers.is_available("ffmpeg"):
            raise ConfigError(f"OUT={out}: needs ffmpeg, which is not installed; install it, or name a .gif")


def _choose_learner(config: ExperimentConfig, learners: Sequence[Any], seed: int | None) -> int:
    seeds = [config.system.seed + index for index in range(len(learners))]
    if seed is None:
        return max(range(len(learners)), key=lambda index: float(learners[index]["best_value"]))
    if seed not in seeds:
        raise ConfigError(f"LEARNER={seed}: the trial has no such seed; choose one of {', '.join(map(str, seeds))}")
    return seeds.index(seed)


def _play(
    system: Any, hyper: Any, params: Any, seed: int, steps: int, config: ExperimentConfig
) -> tuple[list[Any], list[list[float]]]:
    """Return states and rewards of an episode, up to its end or to `steps`."""
    import jax
    import numpy as np

    env = system.env.with_params(hyper.env)
    steps = min(steps, env.time_limit)
    reset_key, play_key = jax.random.split(jax.random.PRNGKey(seed))
    batched = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)  # noqa: E731

    @jax.jit
    def play(params: Any) -> Any:
        state, first = env.reset(reset_key)

        def step(carry: Any, time: Any) -> Any:
            state, memory, observation = carry
            key = jax.random.fold_in(play_key, time)
            greedy = config.arch.evaluation_greedy
            memory, action, _ = system.act(params, memory, batched(observation), key, greedy=greedy)
            state, played = env.step(state, action[0])
            return (state, memory, played.observation), (state, played.reward, played.done)

        start = (state, system.initial_memory(1), first.observation)
        return state, jax.lax.scan(step, start, np.arange(steps))[1]

    first, (following, rewards, done) = jax.device_get(play(params))
    length = int(np.argmax(done)) + 1 if done.any() else steps
    states = [first, *(jax.tree.map(lambda leaf, t=t: leaf[t], following) for t in range(length))]
    return states, rewards[:length].tolist()


@contextlib.contextmanager
def _local(trial: str, root: Path) -> Iterator[Path]:
    """Yield the folder of a trial, given its path, its URI, or its id under `root`; fetch a remote one temporarily."""
    folder, found = as_folder(trial), find_trials(trial, root)
    if len(found) > 1:
        raise RecordError(f"TRIAL={trial}: there are {len(found)} of that id; give the path of one: {found[0]}")
    if not found and store_of(folder).is_file(folder / MANIFEST_FILE):
        raise RecordError(f"TRIAL={trial}: is a sweep; name one of its trials, as make index SWEEP={trial} lists them")
    if not found:
        raise RecordError(f"TRIAL={trial}: no such trial, nor one of that id under {root}; give its folder")
    local = store_of(found[0]).on_disk(found[0])
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="jax_party-episode-") as scratch:
        transfer.fetch(found[0], Path(scratch) / found[0].name)
        yield Path(scratch) / found[0].name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if the episode could not be shown."""
    parser = OneLineParser("python -m jax_party.episode", description=__doc__.partition("\n")[0], variables=_VARIABLES)
    parser.add_argument("trial", help="its folder (s3://… too), or its id")
    parser.add_argument("--seed", type=whole_number(0, 999_999_999), default=0, help="of the episode (0)")
    parser.add_argument("--steps", type=whole_number(1), default=STEPS, help=f"at most so many ({STEPS})")
    parser.add_argument("--learner", type=whole_number(0), help="the seed to show, if the trial has several (the best)")
    parser.add_argument("--out", type=Path, help="a .gif or .mp4 file (<trial id>.gif)")
    parser.add_argument("--root", type=Path, default=Path("experiment_results"), help="folder to search for ids")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    quiet_libraries()
    console = RunConsole(enabled=True)
    try:
        if options.out is not None:
            check_out(options.out)
        with _local(options.trial, options.root) as folder:
            out = options.out or Path(f"{read_record(folder).trial_id}.gif")
            episode = play_episode(folder, options.seed, options.steps, options.learner)
            save_episode(episode, out)
    except JaxPartyError as error:
        console.error(f"error: {' '.join(str(error).split())}")
        return BAD_INPUT
    of_agents = [sum(rewards) for rewards in zip(*episode.rewards, strict=True)]
    totals = ", ".join(f"A{agent} {total:.4g}" for agent, total in enumerate(of_agents))
    console.say(f"{out}: {len(episode.rewards)} steps by learner {episode.seed} at step {episode.step:,}: {totals}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
