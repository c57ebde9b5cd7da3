"""The commands' signatures: each body imports its command when it runs, so that start-up stays cheap."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from netdiag.cli.lab import lab_app
from netdiag.cli.output import UserError

HELP = "Measure a network incident, name its causes with evidence, and write the escalation report."
EPILOG = "Exit status: 0 healthy, 1 degraded, 2 critical, 3 could not tell (bad usage, bad plan, nothing measurable)."

app = typer.Typer(
    help=HELP,
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the start-up, and readable in a pipe or a log
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
plan_app = typer.Typer(
    help="The plan file: its schema, and a check of one.", pretty_exceptions_enable=False, rich_markup_mode=None
)


class ReportForm(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


class TextForm(StrEnum):
    TEXT = "text"
    JSON = "json"


def complete_code(incomplete: str) -> list[str]:
    from netdiag.explain import codes

    return [code for code in codes() if code.startswith(incomplete)]


def complete_probe(incomplete: str) -> list[str]:
    from probes.registry import probe_names

    return [name for name in probe_names() if name.startswith(incomplete)]


TARGETS_HELP = (
    "The application's own DSN in any form, host:port, or a host; with --plan also the name of one of its endpoints."
    " None: the plan's endpoints, or the PG* environment."
)
SWEEP_HELP = (
    "For latency: many targets, one per line (host, host:port or address; # begins a comment), - is standard input."
    " By handshake where a port is named, else by echo. Each is told as it finishes. With --format json these are"
    " JSON lines, not one document: a netdiag.probe/1 for each target and last a netdiag.sweep/1 with the totals."
)
Targets = Annotated[list[str] | None, typer.Argument(metavar="[TARGET]...", help=TARGETS_HELP)]
PlanFile = Annotated[Path | None, typer.Option("--plan", metavar="FILE", help="The plan of the deployment (TOML).")]
Budget = Annotated[
    str | None, typer.Option(metavar="TIME", help='Deadline of the whole run: "60s". Default: the plan\'s.')
]
Rate = Annotated[float | None, typer.Option(min=1, help="Ceiling in packets per second. Default: the plan's, 200.")]
Form = Annotated[ReportForm, typer.Option("--format", help="Of what is printed on standard output.")]
Plain = Annotated[TextForm, typer.Option("--format", help="Of what is printed on standard output.")]


def print_version(wanted: bool) -> None:
    if wanted:
        from netdiag.cli.version import print_short_version

        print_short_version()
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print it.")
    ] = False,
) -> int | None:
    if context.invoked_subcommand is None:
        raise UserError("no command given", "`netdiag run TARGET` is the main one; `netdiag --help` lists all")
    return None


@app.command()
def run(
    targets: Targets = None,
    plan: PlanFile = None,
    form: Form = ReportForm.TEXT,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.txt, report.md and run.json there.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Stop at the first verdict; no watching on.")] = False,
    budget: Budget = None,
    rate: Rate = None,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN.json", help="An earlier run: its figures are what is normal.")
    ] = None,
    vantage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the place netdiag runs at. Default: the host's.")
    ] = None,
    region: Annotated[str | None, typer.Option(metavar="NAME", help="Region netdiag runs in.")] = None,
    bulk_read: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="At the end, read this much of each database address, as a backup does (16MiB)."
            " Default: the plan's, else nothing.",
        ),
    ] = None,
) -> int:
    """Measure, diagnose, report: the main command."""
    from netdiag.cli.conclude import Format
    from netdiag.cli.run import RunArguments, run_command

    return run_command(
        RunArguments(
            targets=tuple(targets or ()),
            plan=plan,
            form=Format(form.value),
            output=output,
            quick=quick,
            budget=budget,
            rate=rate,
            against=against,
            vantage=vantage,
            region=region,
            bulk_read=bulk_read,
        )
    )


@app.command()
def probe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which probe.", autocompletion=complete_probe)],
    target: Annotated[
        str | None,
        typer.Argument(metavar="[TARGET]", help="A DSN, host:port or a host; its every address is measured."),
    ] = None,
    targets: Annotated[Path | None, typer.Option("--targets", metavar="FILE", help=SWEEP_HELP)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the probe; may be repeated.")
    ] = None,
    form: Plain = TextForm.TEXT,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Deadline of the whole. Default: 60s; with --targets: none."),
    ] = None,
    rate: Rate = None,
) -> int:
    """One probe alone, on every address of the target."""
    from netdiag.cli.probe import ProbeArguments, probe_command

    arguments = ProbeArguments(
        name=name,
        target=target,
        settings=tuple(settings or ()),
        as_json=form is TextForm.JSON,
        timeout=timeout,
        rate=rate,
    )
    if targets is None:
        return probe_command(arguments)
    if target is not None:
        raise UserError("either TARGET or --targets FILE, not both")
    from netdiag.cli.sweep import sweep_command

    return sweep_command(arguments, targets)


@app.command()
def reflect(
    listen: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="Address to listen on. Default: 0.0.0.0 with --allow, else 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="UDP port. Default: 862, or 8620 where 862 is not allowed."),
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="CIDR", help="A network that is answered; may be repeated.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=1, help="Packets per second that are answered for each source address.")
    ] = 200.0,
) -> int:
    """Answer STAMP packets (RFC 8762), so that `netdiag probe stamp` elsewhere can tell the two directions apart."""
    from netdiag.cli.reflect import ReflectArguments, reflect_command

    return reflect_command(ReflectArguments(listen=listen, port=port, allow=tuple(allow or ()), rate=rate))


@app.command()
def check(
    targets: Targets = None,
    plan: PlanFile = None,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="The command ends within this, whatever happens.")
    ] = "55s",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing when healthy, as cron likes it.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Sample on until the timeout, for rare faults.")] = False,
    keep: Annotated[
        int, typer.Option(min=0, help="How many runs are kept in the state folder, at most 256 MiB.")
    ] = 2000,
    rate: Rate = None,
) -> int:
    """For cron and monitoring: one Nagios line with perfdata, and its exit status."""
    from netdiag.cli.check import CheckArguments, check_command

    return check_command(
        CheckArguments(
            targets=tuple(targets or ()), plan=plan, timeout=timeout, quiet=quiet, watch=watch, keep=keep, rate=rate
        )
    )


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="RUN.json", help="A saved run; - is standard input.")],
    form: Form = ReportForm.TEXT,
) -> int:
    """Judge saved evidence again, offline."""
    from netdiag.cli.conclude import Format
    from netdiag.cli.run import replay_command

    return replay_command(file, Format(form.value))


@app.command()
def explain(
    code: Annotated[
        str | None,
        typer.Argument(metavar="[CODE]", help="Such as db.port-closed; none lists all.", autocompletion=complete_code),
    ] = None,
    form: Plain = TextForm.TEXT,
) -> int:
    """What a finding means, what looks like it, how it is told apart and fixed."""
    from netdiag.cli.explain import explain_command

    return explain_command(code, form is TextForm.JSON)


@app.command()
def doctor(form: Plain = TextForm.TEXT) -> int:
    """What this host and user may do, what is degraded without it, and the command that grants it."""
    from netdiag.cli.doctor import doctor_command

    return doctor_command(form is TextForm.JSON)


@app.command()
def version(form: Plain = TextForm.TEXT) -> int:
    """Versions of netdiag and of what it stands on."""
    from netdiag.cli.version import version_command

    return version_command(form is TextForm.JSON)


@plan_app.command("schema")
def plan_schema() -> int:
    """The plan's JSON Schema, for editors."""
    from netdiag.cli.plan import schema_command

    return schema_command()


@plan_app.command("check")
def plan_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan to check; nothing is measured.")],
    form: Plain = TextForm.TEXT,
) -> int:
    """Read a plan strictly; every mistake is told with file, line and key."""
    from netdiag.cli.plan import check_plan_command

    return check_plan_command(file, form is TextForm.JSON)


app.add_typer(plan_app, name="plan")
app.add_typer(lab_app, name="lab")
