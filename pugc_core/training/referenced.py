"""TRL's DPO trainer, with the start model's log-probabilities computed once per data and start model, then kept.

The losses that measure against the start (DPO and its relatives) need one number per answer from it. They are computed
before the training, so that no second model is in memory during it, and written to a folder that the objectives of a
recipe share: the second objective on the same pairs reads them. The key is what the numbers depend on: the weights, the
tokens, the precision, and `ld_alpha`, which TRL's own cache leaves out.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import polars as pl
import torch
from accelerate.utils import broadcast_object_list
from trl import DPOConfig, DPOTrainer

from pugc_core.training.losses.base import Loss, Setup
from pugc_core.training.pairwise import Pairwise
from pugc_core.training.summary import Say, unsaid

_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class ReferencedTrainer(Pairwise, DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """`references` is the folder of kept log-probabilities, or None. `length_price` is R-DPO's alpha / beta: what is
    taken off the start model's log-probability per token of an answer. `say` is told when that model is asked."""

    def __init__(
        self,
        *,
        references: Path | None,
        length_price: float = 0.0,
        say: Say = unsaid,
        **options: Any,
    ) -> None:
        self._references = references
        self._length_price = length_price
        self.start_has_rewards = length_price != 0  # the longer answer's is the larger
        self._say = say
        super().__init__(**options)

    def rows(self, batch: dict[str, Any]) -> int:
        return len(batch["input_ids"]) // 2

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[None, Any, None]:
        inputs = self._prepare_inputs(inputs)
        outputs: list[Any] = []

        def watched(**options: Any) -> Any:
            outputs.append(model(**options))
            return outputs[-1]

        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(watched, inputs)  # of one pair: the batches of an evaluation hold no more
        answers = inputs["completion_mask"][:, 1:]
        shared = answers.sum(1).min()
        weights = torch.where(answers.cumsum(1) <= shared, 1.0, 1.0 if self.ld_alpha is None else self.ld_alpha)
        now = (outputs[0].log_probs[:, -answers.shape[1] :] * answers * weights).sum(1)
        start = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        return None, torch.cat([loss.view(1), self.beta * (now - start)]).float()[None], None

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        path = self._references and self._references / f"{self._key(dataset)}.parquet"
        agreed: list[Any] = [path, bool(path and path.is_file())]
        broadcast_object_list(agreed, from_process=0)  # all processes must take the same way
        path, known = agreed
        if known:
            kept = pl.read_parquet(path)
            for column in _COLUMNS:
                dataset = dataset.add_column(column, kept[column].to_list())
        else:
            self._say(f"the start model reads {len(dataset)} pairs: a third of the time of training on them")
            dataset = super()._precompute_ref_logps(dataset, name, batch_size)
            if path and self.accelerator.is_main_process:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(".part")
                pl.DataFrame({c: dataset[c][:] for c in _COLUMNS}).write_parquet(part)
                part.replace(path)
        price = {"price": self._length_price}
        return dataset.map(_priced, fn_kwargs=price, desc="length") if self._length_price else dataset

    def _key(self, dataset: Any) -> str:
        made = hashlib.sha256(f"{self._precompute_model_hash} {self.ld_alpha} {self.args.bf16}".encode())
        for row in dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]):
            made.update(repr([row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]]).encode())
        return made.hexdigest()[:16]


def _priced(row: dict[str, Any], price: float) -> dict[str, float]:
    # No method: datasets hashes what it maps, and a method brings its trainer along, model and all.
    return {f"ref_{s}_logps": row[f"ref_{s}_logps"] - price * len(row[f"{s}_ids"]) for s in ("chosen", "rejected")}


def trainer(setup: Setup, loss: Loss, *, loss_type: str, length_price: float = 0.0, **options: Any) -> Any:
    """A trainer of one of TRL's DPO losses; `length_price` is in reward per token, `options` are DPOConfig's."""
    revision = getattr(setup.model.config, "_commit_hash", None)  # of a model from the hub
    if revision and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        options["model_init_kwargs"] = {"revision": revision}  # there TRL loads the start model a second time, by name
    return ReferencedTrainer(
        references=setup.references,
        length_price=length_price / loss.beta,
        say=setup.say,
        args=DPOConfig(
            loss_type=[loss_type],
            beta=loss.beta,
            learning_rate=loss.learning_rate,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=setup.arguments["per_device_train_batch_size"],
            **options,
            **setup.arguments,
        ),
        **setup.given,
    )
