"""Models: what the plane can speak to."""

from __future__ import annotations

import anthropic

from refusals import refused


def test_list_and_retrieve(client: anthropic.Anthropic) -> None:
    models = list(client.beta.models.list(limit=2))
    assert models, "a plane with a provider lists no model"
    assert len({model.id for model in models}) == len(models)
    for model in models:
        assert model.type == "model" and model.display_name and model.lifecycle in ("active", "deprecated", "retired")
    assert client.beta.models.retrieve(models[0].id) == models[0]


def test_pages(client: anthropic.Anthropic) -> None:
    everything = [model.id for model in client.beta.models.list(limit=100)]
    assert [model.id for model in client.beta.models.list(limit=1)] == everything
    if len(everything) > 1:
        page = client.beta.models.list(limit=1, after_id=everything[0])
        assert page.data[0].id == everything[1] and page.first_id == everything[1]
        back = client.beta.models.list(limit=1, before_id=everything[1])
        assert back.data[0].id == everything[0]


def test_refusals(client: anthropic.Anthropic) -> None:
    with refused(404, "no-such-model"):
        client.beta.models.retrieve("no-such-model")
    with refused(400, "before_id"):
        client.beta.models.list(after_id="a", before_id="b")
