"""The plot of benchmarks/inversion.py: quality over seconds per image, one line per inverter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inversion_report import TITLES

SETS = {"val": "FairFace val", "london": "London", "aaf": "All-Age-Faces, fine-tuned generator"}
MEASURES = {"psnr": "PSNR, dB", "identity": "identity, cosine of MobileFaceNet"}


def plot(rows: Sequence[dict[str, Any]], caption: str, path: Path) -> None:
    """Draws rows of :func:`inversion_report.rows_of`; bars are one standard error of the difference from ``hybrid``."""
    from matplotlib import pyplot  # extra [eval]

    sets = list(dict.fromkeys(row["set"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    size = {"figsize": (max(4.4 * len(sets), 8.0), 7), "sharex": True, "sharey": "row", "squeeze": False}
    figure, axes = pyplot.subplots(len(MEASURES), len(sets), layout="constrained", **size)
    for column, name in enumerate(sets):
        axes[0, column].set_title(SETS.get(name, name))
        for line, measure in enumerate(MEASURES):
            ax = axes[line, column]
            for number, method in enumerate(methods):
                points = [row for row in rows if (row["set"], row["method"]) == (name, method)]
                points.sort(key=lambda row: row["seconds_per_image"])
                if points:
                    ax.errorbar(
                        [row["seconds_per_image"] for row in points],
                        [row[f"{measure}_plotted"][0] for row in points],
                        yerr=[row[f"{measure}_plotted"][1] for row in points],
                        marker="o" if len(points) > 1 else "D",
                        markersize=4,
                        capsize=2,
                        linewidth=1.2,
                        color=f"C{number}",
                        label=TITLES.get(method, method),
                    )
            ax.set_xscale("log")
            ax.grid(alpha=0.3, which="both")
            if column == 0:
                ax.set_ylabel(MEASURES[measure])
        axes[-1, column].set_xlabel("seconds an image")
    legend: dict[str, Any] = {}  # a method need not be in all sets
    for ax in axes[0]:
        handles, labels = ax.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4)
    figure.suptitle(caption, fontsize="medium")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
