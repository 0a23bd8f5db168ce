"""`python -m launcher.sweep ALG=mappo SAMPLES=8 …`: plan a sweep, run it, collect it; or resume one."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import mava_configs
from jax_party.engines import NATIVE, Engine, get_engine
from jax_party.errors import JaxPartyError, RecordError, StorageError, SweepError
from jax_party.judging.seeds import fresh_seeds
from jax_party.store import storage
from jax_party.store.locks import lock_folder
from jax_party.store.retry import patience_s, refusal
from jax_party.trial.judged import contender_of
from jax_party.trial.manifest import write_manifest
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.ask.options import (
    CLAIM_HELP,
    EXTEND_HELP,
    HELP,
    PROMOTE_HELP,
    RERUN_HELP,
    RESUME_HELP,
    VERDICT_HELP,
    ExtendOptions,
    PromoteOptions,
    ResumeOptions,
    Scheduler,
    Search,
    SweepOptions,
    parse_claim_options,
    parse_extend_options,
    parse_promote_options,
    parse_rerun_options,
    parse_resume_options,
    parse_sweep_options,
    parse_verdict_options,
)
from launcher.ask.quantities import parse_budget
from launcher.commands.claim import facts as claim_facts
from launcher.commands.claim import give_verdict, read_claims, read_intact, show_verdict, write_claim, write_tests
from launcher.drive.dashboards import check_watching
from launcher.machine.resources import Crew, Machine, check_token, find_machine, prepare_driver
from launcher.plan.compose import read_study
from launcher.plan.estimate import estimate
from launcher.plan.fixed_ranks import note_of_plan
from launcher.plan.study import NUM_DEVICES_KEY, PlannedTrial, Study
from launcher.plan.write import check_plan, create_sweep_folder, draw_plan, sweep_name_and_folder, write_plan
from launcher.search.warm_start import check_warm_start
from launcher.show.console import duration, plain, show_facts, value_text
from sweeps.space import ScenarioMode

if TYPE_CHECKING:  # it imports Ray, which bad input need not wait for
    from launcher.drive.run import Sweep

BAD_INPUT = 2
INTERRUPTED = 130
USAGE = """python -m launcher.sweep ALG=mappo [KEY=VALUE ...]     run a sweep
python -m launcher.sweep resume <folder> [KEY=VALUE ...]  finish a sweep that was stopped or killed
python -m launcher.sweep extend <folder> SAMPLES=8 ...    add configurations to a sweep
python -m launcher.sweep promote <folder> [KEY=VALUE ...] play the best configurations again on fresh seeds
python -m launcher.sweep claim CLAIM=... ALG=... ...      plan a sweep, and claim what it will show before it runs
python -m launcher.sweep verdict <folder> [KEY=VALUE ...] test what was claimed on seeds that no search has seen
python -m launcher.sweep rerun <trial> [OUT=...]          repeat a trial and compare every number
python -m launcher.sweep list-algorithms                  the algorithms and their aliases"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Bad input is one line on stderr and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    prepare_driver(joins=any(re.match("ADDRESS=.|DASHBOARD=1", word) for word in words))
    try:
        patience_s()  # refused here, not in an outage
        if words and words[0] in ("-h", "--help", "help"):
            return _help(console)
        if words[:1] == ["list-algorithms"]:
            return _list_algorithms(console)
        if words[:1] == ["resume"]:
            return resume(parse_resume_options(words[1:]), console)
        if words[:1] == ["extend"]:
            return extend(parse_extend_options(words[1:]), console)
        if words[:1] == ["promote"]:
            return promote(parse_promote_options(words[1:]), console)
        if words[:1] == ["verdict"]:
            return verdict(parse_verdict_options(words[1:]), console)
        if words[:1] == ["rerun"]:
            from launcher.commands.rerun import rerun

            return rerun(parse_rerun_options(words[1:]), console)
        command = shlex.join(["python", "-m", "launcher.sweep", *words])
        if words[:1] == ["claim"]:
            options, text = parse_claim_options(words[1:])
            return start(options, command, console, text)
        return start(parse_sweep_options(words), command, console)
    except KeyboardInterrupt:
        plain(console, "Stopped before any trial began")
        return INTERRUPTED
    except JaxPartyError as error:
        plain(Console(stderr=True), f"{type(error).__name__}: {'; '.join(str(error).splitlines())}")
        return BAD_INPUT
    except OSError as error:
        if refusal(error) is None:
            raise
        plain(Console(stderr=True), f"StorageError: {error}; make room, or mend it, and try again")
        return BAD_INPUT


def start(options: SweepOptions, command: str, console: Console, claim: str | None = None) -> int:
    """Plan a sweep, write the plan, and run it; or, with a claim, write that beside the plan, and run nothing."""
    budget = parse_budget(options.budget) if options.budget else {}
    check_watching(options.watching, options.address)
    study, samples = read_study(options)
    claims = None if claim is None else read_claims(claim, study)
    earlier = check_warm_start(study)
    _check_storage(options.root, writing=not options.dry_run)
    machine = _find_machine(options.address, options.root, shared=options.storage is not None)
    crew = Crew.of(machine, options.workers, options.pack, study.num_devices, options.gpus_per_trial)
    _check_pack(study.scheduler, crew, options.address, options.root, study.engine)
    crew = dataclasses.replace(crew, period_timeout_s=options.period_timeout)
    name, folder = sweep_name_and_folder(options, study.label, datetime.now())
    if not options.dry_run:
        name, folder = create_sweep_folder(options, study.label)
    study = dataclasses.replace(study, name=name)
    trials = () if study.search.learns else draw_plan(study, samples)
    check_plan(study, trials)
    num_trials = len(trials) or samples * study.round_size
    facts = _facts(study, options, samples, num_trials, trials, crew, folder)
    known = {"from": earlier.describe(study)} if earlier.trials else {}
    claimed = {} if claim is None or claims is None else claim_facts(claims, claim)
    show_facts(console, f"Sweep {name}", {**facts, **known, **claimed})
    if options.dry_run:
        _show_trials(trials, console)
        return 0
    write_plan(folder, study, trials, num_trials, options, command, samples)
    if claims is not None:
        write_claim(folder, claims, console)
        return 0
    return _drive(_read_sweep(folder, options), crew, console, budget)


def resume(options: ResumeOptions, console: Console) -> int:
    """Run what is left of a sweep."""
    sweep = _read_sweep(options.folder, options)

    def take_up() -> None:
        sweep.complete_plan()
        sweep.set_back([State.RUNNING, State.FAILED] if options.retry_failed else [State.RUNNING])
        _show_resume(sweep.remaining, len(sweep.records), crew.workers, sweep.folder, console)

    crew = _crew_for(sweep, options)
    budget = parse_budget(options.budget) if options.budget else sweep.manifest.budget
    if not options.budget and not options.retry_failed and not sweep.searching:
        budget = {}  # what is left are tests of winners, which it does not count
    return _drive(sweep, crew, console, budget, take_up)


def extend(options: ExtendOptions, console: Console) -> int:
    """Add configurations to a sweep, and run them."""
    from launcher.commands.extend import extended
    from launcher.drive.run import check_budget

    asked = options.resume
    sweep = _read_sweep(asked.folder, asked)
    manifest = extended(sweep, options.samples)

    def take_up() -> None:
        check_budget(sweep, budget)
        write_manifest(sweep.folder, manifest)
        sweep.manifest = manifest
        sweep.complete_plan()
        sweep.set_back([State.RUNNING])
        _show_resume(sweep.remaining, len(sweep.records), crew.workers, sweep.folder, console)

    crew = _crew_for(sweep, asked)
    budget = parse_budget(asked.budget) if asked.budget else manifest.budget
    return _drive(sweep, crew, console, budget, take_up)


def promote(options: PromoteOptions, console: Console) -> int:
    """Play the best configurations of a sweep again on fresh seeds."""
    from launcher.commands.promote import show_promotions, winners, write_promotions
    from launcher.commands.race import run_race

    sweep = _read_sweep(options.folder, options)
    crew = _crew_for(sweep, options)
    if options.race is not None:
        return run_race(sweep, options, console, lambda prepare: _drive(sweep, crew, console, {}, prepare))
    promoted: list[TrialRecord] = []

    def choose() -> None:
        sweep.set_back([State.RUNNING])
        chosen = winners(sweep, options.top)
        promoted.extend(write_promotions(sweep, chosen, fresh_seeds(sweep.manifest.name)[: options.seeds]))
        number = len({(w.record.algorithm, contender_of(w.record)) for w in chosen})
        where = f" in {len(chosen) // number} scenarios" if sweep.manifest.scenario_mode == "mean" else ""
        plain(
            console,
            f"Promoting {number} configuration{'s' * (number != 1)}{where} of {sweep.folder}, "
            f"{options.seeds} fresh seeds each",
        )

    code = _drive(sweep, crew, console, {}, choose)
    if code == 0:
        show_promotions(sweep, promoted, console)
    return code


def verdict(options: PromoteOptions, console: Console) -> int:
    """Test the claims on a sweep on the seeds that they named before it ran."""
    sweep = _read_sweep(options.folder, options)
    content = read_intact(sweep.folder)
    if sweep.searching:
        raise SweepError(f"{sweep.folder}: its trials have not all ended; finish it: make resume SWEEP={sweep.folder}")
    crew = _crew_for(sweep, options)
    tests: dict[tuple[str, str], TrialRecord] = {}

    def choose() -> None:
        sweep.set_back([State.RUNNING])
        tests.update(write_tests(sweep, content))
        number = content["seeds"]["number"]
        plain(console, f"Testing {len(tests)} configurations of {sweep.folder} on {number} seeds that it claimed")

    code = _drive(sweep, crew, console, {}, choose)
    if code == 0:
        show_verdict(give_verdict(sweep, content, tests), sweep.folder, console)
    return code


def _read_sweep(folder: Path, options: SweepOptions | ResumeOptions | PromoteOptions) -> Sweep:
    from launcher.drive.run import Sweep

    check_watching(options.watching, options.address)
    folder = storage.absolute(folder)
    _check_storage(folder)
    return dataclasses.replace(Sweep.read(folder), address=options.address, watching=options.watching)


def _check_storage(folder: Path, writing: bool = True) -> None:
    """See that the sweep's storage answers, and takes a file; without `writing` one, that a folder could be made."""
    try:
        storage.check(folder, writing)
    except StorageError as error:
        raise SweepError(f"STORAGE: {error}") from error
    if not writing and not storage.is_remote(folder):
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise SweepError(f"{folder}: cannot make a folder there, in {there}; name one that can be written to")


def _find_machine(address: str | None, folder: Path, shared: bool) -> Machine:
    """This machine, or the cluster at `address`, whose nodes see the folder."""
    check_token()
    if address is None:
        return find_machine()
    from launcher.machine.join import find_cluster

    return find_cluster(address, folder, shared)


def _check_pack(scheduler: Scheduler, crew: Crew, address: str | None, folder: Path, engine: Engine) -> None:
    """Refuse to share workers where trials cannot, or where a scheduler lets them wait and could not keep their places.

    Raises:
      SweepError: with what to do instead.
    """
    if crew.pack > 1 and not engine.side_by_side:
        raise SweepError(f"PACK={crew.pack}: ENGINE={engine.name} has one trial a worker; leave PACK out")
    if not (crew.shared and scheduler.by_group):
        return
    if address is not None:
        raise SweepError(
            f"PACK={crew.pack}: with SCHEDULER={scheduler} trials wait and go on, and a cluster cannot keep places "
            "for them with workers that they share; leave PACK out"
        )
    if scheduler.is_population and storage.is_remote(folder):
        raise SweepError(
            f"PACK={crew.pack}: with SCHEDULER={scheduler} and STORAGE={folder} learners pass between workers of one "
            "trial each; leave PACK out"
        )


def _crew_for(sweep: Sweep, options: ResumeOptions | PromoteOptions) -> Crew:
    """The crew that a sweep began with, but for what is asked for now."""
    manifest = sweep.manifest
    devices = (manifest.overrides or {}).get(NUM_DEVICES_KEY, 1)
    gpus = options.gpus_per_trial or manifest.gpus_per_trial
    machine = _find_machine(sweep.address, sweep.folder, shared=True)
    crew = Crew.of(machine, options.workers, options.pack or manifest.pack, devices, gpus)
    engine = get_engine(manifest.engine)
    engine.check()
    _check_pack(Scheduler(manifest.scheduler), crew, sweep.address, sweep.folder, engine)
    return dataclasses.replace(crew, period_timeout_s=options.period_timeout)


def _drive(
    sweep: Sweep,
    crew: Crew,
    console: Console,
    budget: Mapping[str, float],
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Run a sweep as its folder's only driver; `prepare` is called once that is sure."""
    from launcher.drive.run import run_sweep

    try:
        with lock_folder(sweep.folder, timeout=0.0):
            prepare()
            return run_sweep(sweep, crew, console, budget)
    except RecordError as error:
        raise SweepError(str(error)) from error


def _show_resume(remaining: int, known: int, workers: int, folder: Path, console: Console) -> None:
    plain(console, f"Resuming {folder}: {remaining} trials to run, {known} have folders, {workers} workers")


def _facts(
    study: Study, options: SweepOptions, samples: int, num_trials: int, trials: Sequence[PlannedTrial],
    crew: Crew, folder: Path,
) -> Mapping[str, str]:  # fmt: skip
    """What is about to happen, name by name."""
    scenarios = list(dict.fromkeys(base.scenario for base in study.bases))
    bases = [trial.base for trial in trials] or list(study.bases) * (num_trials // len(study.bases))
    steps = dict.fromkeys(study.algorithms, 0)
    for base in bases:
        steps[base.algorithm] += base.total_steps * study.num_seeds
    each = sorted({base.total_steps for base in study.bases})
    unit = "seed" if study.num_seeds > 1 else "trial"
    guess = estimate(options.root, steps, bool(crew.machine.gpus), num_trials, crew.workers, study.engine.name)
    seeds = sorted({trial.seed for trial in trials} or {study.seed})
    facts = {
        **({} if study.engine.name == NATIVE else {"engine": _engine(study.engine)}),
        "trials": _count(num_trials, study, scenarios),
        "search": _search(study),
        "space": ", ".join(study.spec.axis_keys()) + f" ({study.spec.source})",
        "seeds": _seeds(seeds, study),
        "steps": f"{' and '.join(f'{count:,}' for count in each)} a {unit}, {sum(steps.values()):,} in all",
        "evaluations": f"{' and '.join(map(str, sorted({base.num_evaluations for base in study.bases})))} a trial",
        "workers": str(crew.workers) + (f", each with up to {crew.pack} trials" if crew.shared else ""),
        **({"budget": options.budget} if options.budget else {}),
        "device": crew.machine.describe(crew.workers, crew.needs),
        "folder": str(folder),
        "time": f"about {duration(guess.seconds)} ({guess.source})",
    }
    notes = [note for base in study.bases[:1] for note in [base.note] if note]
    notes += [crew.machine.note] if crew.machine.note else []
    if options.search is Search.RANDOM and num_trials < samples * study.round_size:
        configurations = f"{num_trials / study.round_size:g}"
        notes.append(f"the space has no more than {configurations} different configurations; {samples} were asked for")
    ranks = note_of_plan(study, trials)
    return facts | ({"note": "; ".join(notes)} if notes else {}) | ({"ranks": ranks} if ranks else {})


def _engine(engine: Engine) -> str:
    """Which one, and which version of it, where that is known."""
    version = engine.version()
    return f"{engine.name} ({version})" if version else engine.name


def _search(study: Study) -> str:
    """How configurations are drawn, and what for."""
    sampler = f" ({study.sampler})" if study.sampler else ""
    looked_for = " and ".join(
        f"{mode} {metric}" for metric, mode in zip(study.objective.metrics, study.objective.modes, strict=True)
    )
    over = (
        f" over {len(study.bases) // len(study.algorithms)} scenarios, their mean"
        if (study.spec.scenario_mode is ScenarioMode.MEAN)
        else ""
    )
    bounds = "".join(f", {name} {bound:g}" for name, bound in study.objective.constraints.items())
    return f"{study.search}{sampler}, scheduler {study.scheduler}, {looked_for}{over}{bounds}"


def _count(num_trials: int, study: Study, scenarios: Sequence[str]) -> str:
    several = (
        f" × {len(study.algorithms)} algorithms ({', '.join(study.algorithms)})" if len(study.algorithms) > 1 else ""
    )
    where = f" × {len(scenarios)} scenarios ({', '.join(scenarios)})"
    if study.spec.scenario_mode is ScenarioMode.AXIS:
        return (
            f"{num_trials}, of configurations{several} with one of {len(scenarios)} scenarios ({', '.join(scenarios)})"
        )
    if num_trials % len(study.bases):
        return f"{num_trials}, of configurations{several}{where}, each different one once"
    return f"{num_trials} = {num_trials // len(study.bases)} configurations{several}{where}"


def _seeds(seeds: Sequence[int], study: Study) -> str:
    if study.num_seeds > 1:
        last = study.seed + study.num_seeds - 1
        return f"{study.seed} to {last} in each trial, which counts by their {study.objective.aggregate}"
    return ", ".join(map(str, seeds[:8])) + (f", … {len(seeds) - 8} more" if len(seeds) > 8 else "")


def _show_trials(trials: Sequence[PlannedTrial], console: Console) -> None:
    several = len({trial.base.algorithm for trial in trials}) > 1
    for trial in trials:
        values = " ".join(f"{key}={value_text(value)}" for key, value in trial.hyperparameters.items())
        algorithm = f"{trial.base.algorithm} " if several else ""
        plain(console, f"  {trial.number:>4} {algorithm}{trial.base.scenario} {values}")


def _help(console: Console) -> int:
    plain(console, USAGE)
    width = max(map(len, (*HELP, *RESUME_HELP, *EXTEND_HELP, *PROMOTE_HELP)))
    commands = {
        "a sweep": HELP,
        "resume": RESUME_HELP,
        "extend": EXTEND_HELP,
        "promote": PROMOTE_HELP,
        "claim": CLAIM_HELP,
        "verdict": VERDICT_HELP,
        "rerun": RERUN_HELP,
    }
    for title, options in ((f"Options of {name}:", options) for name, options in commands.items()):
        plain(console, f"\n{title}")
        for key, meaning in options.items():
            plain(console, f"  {key:<{width}}  {meaning}")
    return 0


def _list_algorithms(console: Console) -> int:
    aliases = {algorithm: alias for alias, algorithm in mava_configs.ALIASES.items()}
    for algorithm in mava_configs.ALGORITHMS:
        plain(console, f"{algorithm} ({aliases[algorithm]})" if algorithm in aliases else algorithm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
