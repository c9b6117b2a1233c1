"""`pipetwin schedule`: a short function per command."""

from __future__ import annotations

from cyclopts import App

from reports.commands import options as o

schedule_app = App(name="schedule", help="Draw, export and check pipeline schedules.")


@schedule_app.command(name="show")
def schedule_show(
    schedule: o.ScheduleName,
    /,
    *,
    stages: o.Stages = None,
    microbatches: o.Microbatches = None,
    set: o.Overrides | None = None,
) -> int:
    """Draw a schedule in unit times (forward 1, backward 2, messages free).

    Parameters
    ----------
    schedule
        Its name (gpipe, 1f1b, interleaved:3, terapipe:4), a CSV of torch's, or a scenario.
    """
    from reports.commands import files
    from reports.terminal import basics as terminal

    terminal.show_schedule(files.schedule(schedule, stages, microbatches, set or ()))
    return 0


@schedule_app.command(name="export")
def schedule_export(
    schedule: o.ScheduleName,
    /,
    *,
    output: o.Output = None,
    stages: o.Stages = None,
    microbatches: o.Microbatches = None,
    messages: bool = False,
    set: o.Overrides | None = None,
    force: o.Force = False,
) -> int:
    """Write a schedule as CSV for torch.distributed.pipelining.

    Parameters
    ----------
    schedule
        Its name (gpipe, 1f1b, interleaved:3, terapipe:4), a CSV of torch's, or a scenario.
    output
        The file; standard output unless given.
    messages
        Also write sends and receives (torch's format compute_comms).
    """
    from reports.commands import files

    found = files.schedule(schedule, stages, microbatches, set or ())
    files.export_schedule(found, output, messages=messages, force=force)
    return 0


@schedule_app.command(name="check")
def schedule_check(
    schedule: o.ScheduleName,
    /,
    *,
    stages: o.Stages = None,
    microbatches: o.Microbatches = None,
    set: o.Overrides | None = None,
    json: o.Json = False,
) -> int:
    """Check a schedule: complete, free of cycles, messages in order.

    And tell which kinds of sends would deadlock it.

    Parameters
    ----------
    schedule
        Its name (gpipe, 1f1b, interleaved:3, terapipe:4), a CSV of torch's, or a scenario.
    """
    from reports.commands import files
    from reports.terminal import basics as terminal
    from sim.schedule.checks import check

    found = files.schedule(schedule, stages, microbatches, set or ())
    terminal.show_check(found, check(found), as_json=json)
    return 0
