"""``ganaug study create | serve | score``: its parser and its arguments in, figures out."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ganaug.cli_export import add_edit_arguments, wrap_photos
from ganaug.errors import UserInputError

DEFAULT_PORT = 8765  # free of a well-known service


def add_parser(study: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds the three actions to the parser of ``ganaug study``.

    Args:
        study: The parser.
        positive: Reads a number that is at least 1.
        layout: Help of ``--dataset``.
    """
    actions = study.add_subparsers(dest="action", required=True, metavar="create|serve|score")

    def action(name: str, run: Callable[[argparse.Namespace], dict[str, Any]], summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
        sub.set_defaults(run=run)
        return sub

    new = action("create", create, "Pictures and trials for people to judge. Personal data.")
    new.add_argument("--cache", metavar="DIR", required=True)
    new.add_argument("--images", metavar="SRC", required=True, help="the photos that were precomputed")
    new.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder that is made")
    new.add_argument(
        "--tasks", metavar="NAME,...", default="real-or-generated,same-person", help="default: %(default)s"
    )
    new.add_argument("--trials", metavar="N", type=positive, default=40, help="of each task (default: %(default)s)")
    catch = "obvious trials of each task, beside those; who fails them is flagged (default: %(default)s)"
    new.add_argument("--catch", metavar="N", type=int, default=4, help=catch)
    new.add_argument("--raters", metavar="N", type=positive, default=5, help="links to make (default: %(default)s)")
    new.add_argument("--exposure-ms", metavar="N", type=int, default=0, help="default: 0, until the answer")
    new.add_argument("--consent", metavar="FILE", type=Path, help="text that raters must accept (default: built in)")
    add_edit_arguments(new, positive, layout)
    new.add_argument("--max-edits", metavar="N", type=positive, default=2, help="of a variant (default: %(default)s)")
    same = "photos and variants lose the same detail, as with degradation='match'"
    new.add_argument("--match-detail", action="store_true", help=same)
    new.add_argument("--batch-size", metavar="N", type=positive, default=32, help="default: %(default)s")
    new.add_argument("--device", default="cpu", help="default: %(default)s")
    new.set_defaults(ratio=1.0, label=None, classical=False)  # what it shares with `ganaug export`, and does not ask

    run = action("serve", serve, "Serves a study to browsers on this machine; prints a link for each rater.")
    run.add_argument("study", metavar="STUDY")
    run.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine)")
    run.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)")

    result = action("score", score, "Error rates with intervals, agreement, and raters who did not look.")
    result.add_argument("study", metavar="STUDY")
    result.add_argument("--out", metavar="FILE", type=Path, help="also a page, .html")


def create(args: argparse.Namespace) -> dict[str, Any]:
    """A study from a cache and its photos."""
    from ganaug.cached_faces import PhotoDataset
    from ganaug.interfaces import resolve_device
    from ganaug.study.create import StudyConfig, create_study

    config = StudyConfig(
        tuple(name.strip() for name in args.tasks.split(",")),
        args.trials,
        args.catch,
        args.raters,
        args.exposure_ms,
        args.seed,
        args.consent,
    )
    device = resolve_device(args.device)
    train = wrap_photos(args, degradation="match" if args.match_detail else None)
    train.policy = replace(train.policy, max_edits=args.max_edits)
    photos = train.dataset.faces if isinstance(train.dataset, PhotoDataset) else []
    attributes = [photo.attributes for _, photo in photos]
    return create_study(train, args.out, config, attributes, args.batch_size, device)


def serve(args: argparse.Namespace) -> dict[str, Any]:
    """Serves a study until it is interrupted."""
    from ganaug.study.server import LOOPBACK, build_app, listen, run
    from ganaug.study.store import Store

    store, here = Store(args.study), args.host in LOOPBACK
    app = build_app(store, LOOPBACK if here else ["*"])
    listener = listen(args.host, args.port)
    try:
        if not here:
            told = "other machines can reach the photos, and links travel unencrypted; put a server with TLS before it"
            print(f"warning: --host {args.host}: {told}", file=sys.stderr)
        name = f"[{args.host}]" if ":" in args.host else args.host
        for rater, token in store.tokens().items():
            print(f"rater {rater}: http://{name}:{listener.getsockname()[1]}/#t={token}")
        print("one link is one rater; Ctrl-C ends", flush=True)
        run(app, listener)
    except KeyboardInterrupt:
        pass  # the ordinary end
    finally:
        listener.close()
        figures = {"answers": sum(row["answers"] for row in store.raters())}
        store.close()
    return figures


def score(args: argparse.Namespace) -> dict[str, Any]:
    """What came out so far."""
    from ganaug.study.report import lines, write_report
    from ganaug.study.scores import score_study
    from ganaug.study.store import Store

    if args.out is not None and args.out.suffix != ".html":
        raise UserInputError(f"--out {str(args.out)!r}: expected a name ending in .html")
    store = Store(args.study)
    figures = score_study(store)
    store.close()
    if args.out is not None:
        write_report(figures, args.out)
    return figures if args.json is not None else lines(figures)
