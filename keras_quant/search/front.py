"""The Pareto front: what loss can be had for what size, as a table and as a picture."""

import dataclasses

from rich.table import Table

from keras_quant.policy import PolicyMap
from keras_quant.tables import Printed

# Rises of the loss up to here are drawn to scale, larger ones by their logarithm.
LEAST_RISE = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """One choice of policies.

    Attributes:
        policies: `PolicyMap`.
        bytes: of the exported file.
        loss: rise of the loss over the float model's on the search's data, of the integers that the file computes.
        milliseconds: of one call of the file; from a table of latencies, the sum over its operators; `None` without times.
        bops: MACs × bits of a weight × bits of an activation, for one sample.
        measure: name of the sensitivity that led to it; "uniform" for one policy throughout.
        choice: dict from `Unit`s to `Policy`s.
    """

    policies: PolicyMap
    bytes: int
    loss: float
    milliseconds: float | None
    bops: int
    measure: str
    choice: dict

    def counts(self):
        """How many layers have each policy, as text."""
        names = [str(policy) for policy in self.choice.values()]
        return ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names)))


class Front(Printed):
    """Choices for many sizes.

    Args:
        points: list of `Point`s.
        uniform: dict from names of policies to the `Point` of that policy throughout.
        int8_bytes: size of the file in int8.

    Attributes:
        points: the `Point`s that no other beats in both size and loss, by size.
    """

    width = 140

    def __init__(self, points, uniform, int8_bytes):
        self.uniform, self.int8_bytes = uniform, int8_bytes
        self.points, best = [], float("inf")
        for point in sorted(points, key=lambda point: (point.bytes, point.loss)):
            if point.loss < best:
                self.points.append(point)
                best = point.loss

    def _all(self):
        return sorted({*self.points, *self.uniform.values()}, key=lambda point: point.bytes)

    def table(self):
        """A Rich table."""
        table = Table(title="Loss by size")
        for name in ("bytes", "of int8", "rise of the loss", "ms", "G bit ops", "by", "layers"):
            table.add_column(name, justify="left" if name in ("by", "layers") else "right")
        for point in self._all():
            dominated = point not in self.points
            table.add_row(
                f"{point.bytes:,}",
                f"{point.bytes / self.int8_bytes:.3f}",
                f"{point.loss:.4f}",
                "" if point.milliseconds is None else f"{point.milliseconds:.3f}",
                f"{point.bops / 1e9:.3f}",
                point.measure,
                point.counts(),
                style="dim" if dominated else "",
            )
        return table

    __rich__ = table

    def plot(self, path):
        """Draw the front, and the uniform policies, into a picture.

        Args:
            path: of a `.png`, `.svg` or `.pdf`.

        Raises:
            ImportError: without Matplotlib (`pip install 'keras-quant[report]'`).
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.step(
            [point.bytes / 1000 for point in self.points],
            [point.loss for point in self.points],
            where="post",
            marker="o",
            label="searched",
        )
        middle = (min(p.bytes for p in self._all()) + max(p.bytes for p in self._all())) / 2000
        for name, point in self.uniform.items():
            size = point.bytes / 1000
            axes.plot(size, point.loss, "x", color="black")
            side = {"xytext": (6, 6)} if size < middle else {"xytext": (-6, 6), "ha": "right"}
            axes.annotate(name, (size, point.loss), textcoords="offset points", **side)
        # From what cannot be told from noise to what makes a model useless.
        axes.set_yscale("symlog", linthresh=LEAST_RISE)
        axes.margins(y=0.12)
        axes.set_xlabel("size of the file in kB")
        axes.set_ylabel(f"rise of the loss (linear up to {LEAST_RISE:g})")
        axes.set_title("Loss by size; crosses have one policy throughout")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=150)
