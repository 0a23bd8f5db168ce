"""Pictures of the game: the party at its table, and the ranking beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from jumanji.viewer import MatplotlibViewer
from matplotlib.animation import FuncAnimation
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.registry import BackendFilter, backend_registry
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import NDArray

from jax_party.env.types import COOPERATE, DEFECT, NEVER_MET, State

# Okabe and Ito's colour-blind-safe palette.
BLUE, VERMILION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
INK, GREY, PALE, TABLE = "#222222", "#8A8A8A", "#E4E4E4", "#F6F1E7"

PLAY_COLOURS = {COOPERATE: BLUE, DEFECT: VERMILION, NEVER_MET: GREY}
PLAY_LETTERS = {COOPERATE: "C", DEFECT: "D", NEVER_MET: "?"}
MAX_LETTERED_MEETINGS = 6


class JaxPartyViewer(MatplotlibViewer[State]):
    """A viewer that draws who meets whom, what they played when they last met, and the totals in order of rank."""

    def __init__(self, time_limit: int | None = None, name: str = "JaxParty", render_mode: str = "human") -> None:
        """Set up the viewer; no figure is made yet.

        Args:
          time_limit: steps per episode, for the title.
          name: the figure's name.
          render_mode: `human` shows the figure if there is a screen; `rgb_array` returns it.
        """
        self._time_limit = time_limit
        self._interactive = render_mode == "human" and _has_screen()
        super().__init__(name, "human" if self._interactive else "rgb_array", figure_size=(11.0, 6.0))

    def render(self, state: State, save_path: str | None = None) -> NDArray[Any] | None:
        """Draw a state.

        Args:
          state: that of one game, not of a batch.
          save_path: where to save the picture, if anywhere.

        Returns:
          (height, width, 4) uint8, or None if the picture was shown on a screen.
        """
        self._clear_display()
        figure = self._figure(self._name)
        self._draw(figure, state)
        if save_path:
            figure.savefig(save_path)
        if self._interactive:
            figure.show()
        image: NDArray[Any] | None = self._display(figure)
        return image

    def animate(self, states: Sequence[State], interval: int = 200, save_path: str | None = None) -> FuncAnimation:
        """Draw consecutive states as an animation, each with what the step before it has paid.

        Args:
          states: states of one game, in order; at least one.
          interval: milliseconds per frame.
          save_path: where to save it, if anywhere.

        Raises:
          ValueError: `states` is empty.
        """
        if not len(states):
            raise ValueError("states must hold at least one state to animate, got none")
        figure = self._with_axes(Figure(figsize=self.figure_size, facecolor="white"))

        def make_frame(number: int) -> tuple[Artist, ...]:
            self._draw(figure, states[number], states[max(number - 1, 0)])
            return tuple(figure.axes)

        self._animation = FuncAnimation(figure, make_frame, init_func=lambda: (), frames=len(states), interval=interval)
        if save_path:
            self._animation.save(save_path, writer="pillow" if save_path.endswith(".gif") else None)
        return self._animation

    def close(self) -> None:
        """Close the figure, if it is open."""
        plt.close(self._name)

    def _figure(self, name: str) -> Figure:
        if plt.fignum_exists(name):
            return plt.figure(name)
        with plt.ioff():
            return self._with_axes(plt.figure(name, figsize=self.figure_size, facecolor="white"))

    @staticmethod
    def _with_axes(figure: Figure) -> Figure:
        figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.12))
        figure.subplots(1, 2, width_ratios=(1.25, 1.0))
        return figure

    def _display_rgb_array(self, fig: Figure) -> NDArray[np.uint8]:
        canvas = fig.canvas if isinstance(fig.canvas, FigureCanvasAgg) else FigureCanvasAgg(fig)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())

    def _draw(self, figure: Figure, state: State, before: State | None = None) -> None:
        party, board = figure.axes
        party.clear()
        board.clear()
        step = f"step {int(state.step_count):,}"
        limit = f" of {self._time_limit:,}" if self._time_limit else ""
        figure.suptitle(f"JaxParty · {step}{limit}", fontsize=15, fontweight="bold", color=INK)
        _draw_party(party, state)
        _draw_board(board, state, room=0.3 if before is None else 0.5)
        if before is not None and before is not state:
            _draw_step(board, before, state)


def _has_screen() -> bool:
    interactive = backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    return str(matplotlib.get_backend()).lower() in {name.lower() for name in interactive}


def _draw_party(ax: Axes, state: State) -> None:
    """Draw agents around the table, and their meetings across it."""
    seats = _seats(len(state.ranks))
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.55, 1.4))
    ax.set_title("Current pairs, and their actions at their last meeting", fontsize=11, color=INK)
    ax.add_patch(Circle((0, 0), 0.74, facecolor=TABLE, edgecolor="#D8CDB8", linewidth=2, zorder=0))

    last = np.asarray(state.last_meeting)
    meetings = np.argwhere(np.triu(np.asarray(state.meeting)))
    lettered = len(meetings) <= MAX_LETTERED_MEETINGS
    for i, j in meetings:
        _draw_half_meeting(ax, seats[i], seats[j], int(last[i, j]), lettered)
        _draw_half_meeting(ax, seats[j], seats[i], int(last[j, i]), lettered)
    for agent, seat in enumerate(seats):
        _draw_agent(ax, seat, agent, bool(state.active[agent]), int(state.ranks[agent]))

    names = {COOPERATE: "C: cooperated", DEFECT: "D: defected", NEVER_MET: "?: never met"}
    handles = [Line2D([], [], color=PLAY_COLOURS[play], linewidth=5, label=name) for play, name in names.items()]
    ax.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=10, handlelength=1.2)


def _seats(num_agents: int) -> NDArray[np.float64]:
    """Return (N, 2) places around the table, agent 0 at the top and the others clockwise."""
    angle = np.pi / 2 - 2 * np.pi * np.arange(num_agents) / num_agents
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _draw_half_meeting(ax: Axes, seat: Any, other: Any, play: int, lettered: bool) -> None:
    """Draw the near half of a line between two who meet, in the colour of what the near one played."""
    middle = (seat + other) / 2
    ends = np.stack([seat, middle])
    width = 6 if lettered else 2
    ax.plot(*ends.T, color=PLAY_COLOURS[play], linewidth=width, solid_capstyle="butt", zorder=1)
    if not lettered:
        return
    towards = (other - seat) / np.linalg.norm(other - seat)
    x, y = seat + 0.36 * towards
    ax.add_patch(Circle((x, y), 0.085, facecolor=PLAY_COLOURS[play], edgecolor="white", linewidth=2, zorder=3))
    ax.text(x, y, PLAY_LETTERS[play], color="white", fontsize=11, fontweight="bold", ha="center", va="center", zorder=4)


def _draw_agent(ax: Axes, seat: Any, agent: int, active: bool, rank: int) -> None:
    face = "white" if active else PALE
    edge = ORANGE if rank == 0 else (INK if active else GREY)
    ax.add_patch(Circle(seat, 0.2, facecolor=face, edgecolor=edge, linewidth=4 if rank == 0 else 2.5, zorder=5))
    x, y = seat
    ink = INK if active else "#5A5A5A"
    ax.text(x, y + 0.045, f"A{agent}", color=ink, fontsize=14, fontweight="bold", ha="center", va="center", zorder=6)
    ax.text(x, y - 0.09, _place(rank), color=ink, fontsize=9, ha="center", va="center", zorder=6)
    if rank == 0:
        ax.plot(*(seat * 1.29), marker="*", markersize=17, color=ORANGE, markeredgecolor=INK, zorder=6)


def _draw_board(ax: Axes, state: State, room: float) -> None:
    """Draw totals as bars, the leader's on top, with a mark for the part that payoffs earned.

    `room`: the free space beside the longest bar, as a share of the axis.
    """
    ranks, totals = np.asarray(state.ranks), np.asarray(state.totals)
    payoffs = np.asarray(state.payoff_totals)
    colours = [ORANGE if rank == 0 else "#9DB7C9" for rank in ranks]
    ax.barh(ranks, totals, height=0.62, color=colours, edgecolor=INK, linewidth=0.8, zorder=2)
    ax.plot(payoffs, ranks, linestyle="", marker="D", markersize=7, color=INK, markeredgecolor="white", zorder=3)

    for rank, total in zip(ranks, totals, strict=True):
        ax.text(
            1.0, rank - 0.12, f"{total:,.1f}", transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=11
        )
    order = np.argsort(ranks)
    ax.set_yticks(range(len(order)), [f"{_place(place)}  A{agent}" for place, agent in enumerate(order)], fontsize=11)
    ax.set_ylim(len(order) - 0.4, -0.6)
    low, high = min(0.0, totals.min(), payoffs.min()), max(0.0, totals.max(), payoffs.max())
    span = (high - low) or 1.0
    ax.set_xlim(low - 0.06 * span, high + room * span)
    ax.axvline(0, color=INK, linewidth=1, zorder=2)
    ax.set_axisbelow(True)
    ax.grid(axis="x", color=PALE)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("reward so far  (bar: payoffs + rank rewards,  ◆: payoffs only)", fontsize=10, color=INK)
    ax.set_title("Ranking", fontsize=11, color=INK)


def _draw_step(ax: Axes, before: State, state: State) -> None:
    """Write below each total what the agent played in the last step, and what it got for that and for its rank."""
    payoffs = np.asarray(state.payoff_totals) - np.asarray(before.payoff_totals)
    rewards = np.asarray(state.totals) - np.asarray(before.totals)
    met, last = np.asarray(before.meeting), np.asarray(state.last_meeting)
    for agent, rank in enumerate(np.asarray(state.ranks)):
        plays = last[agent][met[agent]]
        paid = f"{PLAY_LETTERS[int(plays[0])]} {payoffs[agent]:+.3g}" if len(plays) else "idle"
        text = f"{paid}, rank {rewards[agent] - payoffs[agent]:+.3g}"
        colour = PLAY_COLOURS[int(plays[0])] if len(plays) else INK
        place = ax.get_yaxis_transform()
        ax.text(1.0, rank + 0.27, text, transform=place, ha="right", va="center", fontsize=8, color=colour)


def _place(rank: int) -> str:
    """Return `1st` for rank 0, and so on."""
    number = int(rank) + 1
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
