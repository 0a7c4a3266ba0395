"""Nothing leaves the machine by a setting of the Trainer."""

from __future__ import annotations

import socket

import pytest

from compositional.core.errors import UserError
from compositional.experiment.trainer_options import check_trainer_options
from helpers.tiny_runs import TINY_RUN


@pytest.mark.parametrize(
    "pair", ["push_to_hub=true", "push_to_hub=false", "hub_model_id=a/b", "hub_token=x", "hub_strategy=end", "trackio_space_id=a/b"]
)
def test_a_setting_of_uploads_is_refused(pair):
    with pytest.raises(UserError, match=f"--trainer {pair.partition('=')[0]}: not possible here, nothing is uploaded"):
        check_trainer_options([pair])


def test_the_check_before_a_run_opens_no_socket(run, workspace, tiny_models, monkeypatch):
    def connect(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "create_connection", connect)
    base = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --dataset pocket_dialogs --experiment_name e "
    with pytest.raises(UserError, match="--trainer push_to_hub: not possible here"):
        run(f"{base}--do_train --stored_model_name s --trainer push_to_hub=true hub_model_id=a/b")
    assert not workspace.root.exists()
