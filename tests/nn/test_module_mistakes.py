"""What is refused when a module is built: weights at two places, settings that can change, and ones that a layer does not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chainrule import nn
from chainrule.core import trees
from chainrule.core.errors import ConfigError


class Holder(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)


def test_the_same_module_at_two_places_is_refused() -> None:
    shared = nn.Linear(2, 2)
    with pytest.raises(
        ConfigError, match=r"Holder holds the same Linear as 'encoder' and as 'decoder\.0', .* call it twice"
    ):
        Holder(encoder=shared, decoder=[shared])
    with pytest.raises(ConfigError, match=r"Sequential holds the same Linear as 'layers\.0' and as 'layers\.1'"):
        nn.Sequential(shared, shared)
    with pytest.raises(ConfigError, match=r"'a\.encoder' and as 'b'"):
        Holder(a=Holder(encoder=shared), b=shared)
    with pytest.raises(ConfigError, match="same Linear"):
        Holder(a=shared, b=None).replace(b=shared)


def test_the_same_array_at_two_places_is_refused() -> None:
    weight = np.zeros(3)
    with pytest.raises(ConfigError, match=r"same array as 'a' and as 'b\.0', .*\.copy\(\)"):
        Holder(a=weight, b=(weight,))
    assert len(trees.leaves(Holder(a=weight, b=weight.copy()))) == 2


def test_arrays_that_share_numbers_are_refused_and_parts_of_one_array_are_not() -> None:
    table = np.zeros((4, 6))
    with pytest.raises(ConfigError, match=r"same array as 'a' and as 'b', .*\.copy\(\)"):
        Holder(a=table, b=table.T)
    with pytest.raises(ConfigError, match=r"same array as 'a\.encoder' and as 'c'"):
        Holder(a=Holder(encoder=table[:, :4]), b=table[0, 4:], c=table[2:, 3:])
    assert len(trees.leaves(Holder(a=table[:, :3], b=table[:, 3:], c=table.T.copy()))) == 3


def test_settings_that_can_change_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Holder\.sizes is a list, .*; use a tuple"):
        Holder(sizes=[1, 2])
    with pytest.raises(ConfigError, match=r"Holder\.options is a dict, .*; use a tuple of pairs"):
        Holder(options={"a": 1})
    assert trees.leaves(Holder(sizes=(1, 2), name="x", rate=0.5, scalar=np.float32(2))) == []


def test_containers_that_mix_arrays_with_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Holder\.layers mixes arrays or modules with a str"):
        Holder(layers=[nn.Linear(2, 2), "relu"])
    assert len(trees.leaves(Holder(layers=[nn.Linear(2, 2), None]))) == 2


def test_two_arrays_with_one_path_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two arrays with the path 'a\.b'"):
        Holder(**{"a": {"b": np.zeros(2)}, "a.b": np.ones(2)})


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(ConfigError, match="Holder has no forward method; define"):
        Holder()(np.zeros(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 3, strid=2), "Conv2d has no setting 'strid'; did you mean 'stride'?"),
        (
            lambda: nn.Linear(3, 4, weight=1),
            "Linear has no setting 'weight'; there are in_features, out_features, bias, init, key",
        ),
        # The cell and the attention inside are not what the user has named.
        (lambda: nn.LSTM(3, 4, bidirectonal=True), "LSTM has no setting 'bidirectonal'; did you mean 'bidirectional'?"),
        (lambda: nn.LSTM(3, 4, proj_sise=2), "LSTM has no setting 'proj_sise'; did you mean 'proj_size'?"),
        (
            lambda: nn.TransformerEncoderLayer(8, 2, casual=True),
            "TransformerEncoderLayer has no setting 'casual'; did you mean 'causal'?",
        ),
        (
            lambda: nn.TransformerDecoder(8, 2, 1, rotry=True),
            "TransformerDecoder has no setting 'rotry'; did you mean 'rotary'?",
        ),
        (lambda: nn.models.GPT(9, 8, 8, 2, 1, rotry=True), "GPT has no setting 'rotry'; did you mean 'rotary'?"),
        (lambda: nn.Conv2d(3), "Conv2d needs out_channels and kernel_size"),
        (lambda: nn.Conv2d(3, kernel_size=3), "Conv2d needs out_channels"),
        (lambda: nn.LSTM(hidden_size=3), "LSTM needs input_size"),
    ],
)
def test_settings_that_a_layer_does_not_have_or_needs_are_told_in_its_name(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == message
    assert isinstance(error.value, TypeError)


def test_a_mistake_inside_a_layer_is_told_of_the_part_it_was_made_with() -> None:
    class Outer(nn.Module):
        def __init__(self, width: int, **settings: Any) -> None:
            self.inner = nn.Linear(width, 3, bais=True)

    with pytest.raises(ConfigError, match=r"^Linear has no setting 'bais'; did you mean 'bias'\?$"):
        Outer(3)
    # What takes any setting is not asked.
    with pytest.raises(ConfigError, match=r"^Linear has no setting"):
        Outer(3, colour="red")


def test_what_a_layer_hands_to_the_class_below_it_is_told_of_that_class() -> None:
    class Forgetful(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3)  # type: ignore[call-arg]

    with pytest.raises(
        TypeError, match=r"^Linear\.__init__\(\) missing 1 required positional argument: 'out_features'"
    ):
        Forgetful()
