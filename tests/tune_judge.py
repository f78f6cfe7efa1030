"""A model that writes in one of two ways, and a judge that is helped by one of them."""

from __future__ import annotations

LIKED, OTHER = "quiet films.", "steel bolts."


def likes_gold(prompt, answer):
    """Yes to gold where the summary says what is liked, else no opinion."""
    text = prompt.messages[-1].content
    sure = 3.0 * (LIKED in text and "gold" in text.splitlines()[-1])
    return sure / 2 if answer == "Yes" else -sure / 2


def teach_both_ways(config, folder):
    """Trains the tiny model of a run to write either way, and writes it into a folder."""
    from trsr.data import Dataset
    from trsr.models import open_model
    from trsr.models.hf.load import write_merged
    from trsr.progress import Silent
    from trsr.recommender import summary_writer
    from trsr.training.encode import TextExample
    from trsr.training.settings import TrainSettings
    from trsr.training.text_examples import train_on_texts

    dataset = Dataset.load(config.run.folder)
    writer = summary_writer(config, open_model(config.model))
    prompts = [
        writer.write(case.query.history.items)
        for split in ("train", "valid")
        for case in dataset.cases(split)
    ]
    train_on_texts(
        lambda opened: [
            TextExample("q", prompt, text) for prompt in prompts for text in (LIKED, OTHER)
        ],
        model=config.model,
        settings=TrainSettings(
            epochs=8,
            learning_rate=2e-2,
            warmup_steps=5,
            cases_per_step=8,
            alpha=32,
            dropout=0.0,
            targets=("q_proj", "v_proj", "up_proj", "down_proj"),
        ),
        seed=3,
        out=folder / "adapter",
        state=folder / "state",
        progress=Silent(),
    )
    write_merged(config.model, folder / "adapter", folder / "taught")
    return folder / "taught"
