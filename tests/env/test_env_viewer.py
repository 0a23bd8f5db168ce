"""Pictures: not blank, of the size they should be, different for different states, saved where asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from jax_party.env.env import JaxParty
from jax_party.env.viewer import JaxPartyViewer, _place


@pytest.fixture
def env() -> Iterator[JaxParty]:
    game = JaxParty(num_agents=4, matching="all_pairs", time_limit=20)
    yield game
    game.close()
    assert not plt.get_fignums()


ORDINALS = ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st"]


def some_states(env: JaxParty, count: int) -> list[Any]:
    state, _ = env.reset(jax.random.key(0))
    states, step = [state], jax.jit(env.step)
    for t in range(count - 1):
        state, _ = step(state, jnp.asarray([0, 1, t % 2, 0]))
        states.append(state)
    return states


def test_render_draws_the_state(env: JaxParty) -> None:
    first, *_, last = some_states(env, 5)
    image = np.array(env.render(first))
    assert image.shape == (600, 1100, 4) and image.dtype == np.uint8
    assert len(np.unique(image.reshape(-1, 4), axis=0)) > 50
    np.testing.assert_array_equal(env.render(first), image)
    assert (np.asarray(env.render(last)) != image).any()
    drawn: list[Any] = plt.figure("JaxParty").findobj(lambda artist: isinstance(artist, Text))
    texts = {text.get_text() for text in drawn}
    assert {"A0", "A1", "A2", "A3", "C", "D", "Ranking", "JaxParty · step 4 of 20"} <= texts


def test_animation_is_saved_with_every_frame(env: JaxParty, tmp_path: Path) -> None:
    path = tmp_path / "party.gif"
    animation = env.animate(some_states(env, 2), interval=100, save_path=str(path))
    assert animation is not None
    gif: Any
    with Image.open(path) as gif:
        assert gif.n_frames == 2
        assert len(gif.convert("RGB").getcolors(2**20)) > 50


@pytest.fixture
def backend() -> Iterator[str]:
    """A backend whose figures have no pixels of their own; the one before it is back afterwards."""
    before = matplotlib.get_backend()
    plt.switch_backend("svg")
    yield "svg"
    plt.switch_backend(before)


@pytest.mark.usefixtures("backend")
def test_pixels_and_animations_need_no_backend_of_their_own(env: JaxParty, tmp_path: Path) -> None:
    viewer = JaxPartyViewer(name="elsewhere", render_mode="rgb_array")
    image = viewer.render(some_states(env, 1)[0])
    assert image is not None and len(np.unique(image.reshape(-1, 4), axis=0)) > 50
    viewer.close()
    env.animate(some_states(env, 2), save_path=str(tmp_path / "party.gif"))
    gif: Any
    with Image.open(tmp_path / "party.gif") as gif:
        assert gif.n_frames == 2
    assert matplotlib.get_backend() == "svg"


def test_viewer_saves_and_refuses_nothing(env: JaxParty, tmp_path: Path) -> None:
    viewer = JaxPartyViewer(name="saved", render_mode="rgb_array")
    viewer.render(some_states(env, 1)[0], save_path=str(tmp_path / "party.png"))
    assert (tmp_path / "party.png").stat().st_size > 10_000
    viewer.close()
    with pytest.raises(ValueError, match="at least one state"):
        env.animate([])


def test_places_are_ordinals() -> None:
    assert [_place(rank) for rank in (0, 1, 2, 3, 10, 11, 12, 20)] == ORDINALS
