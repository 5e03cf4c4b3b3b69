"""CheXbert's layout with tiny random weights, and the adapter against a made-up RadEval."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.plugins import Metric, ReportPairs
from unix_cxr.evaluation.results import MetricUnavailable
from unix_cxr.evaluation.text.chexbert import CONDITIONS, CheXbert, CheXbertLabeler
from unix_cxr.evaluation.text.radeval import RadEvalMetric
from unix_cxr.vocabulary import FINDINGS

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "heart",
    "is",
    "large",
    "no",
    "effusion",
    ".",
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=32,
    )
    model = CheXbert(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"epoch": 8, "model_state_dict": state}, tmp_path / "chexbert.pth")
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        tmp_path / "chexbert.safetensors",
    )
    torch.save(model, tmp_path / "pickle.pth")
    return tmp_path


TEXTS = ["Heart is large.", "", "no  effusion\n.", "No effusion. " * 3, "zebra"]


def test_batches_equal_singles_and_both_formats_agree(folder):
    labeler = CheXbertLabeler(folder / "chexbert.pth", folder, batch_size=2)
    found = labeler(TEXTS)
    assert found == [labeler([text])[0] for text in TEXTS]
    assert found == CheXbertLabeler(folder / "chexbert.safetensors", folder)(TEXTS)
    assert found[1] == {}
    assert len({str(states) for states in found}) > 2
    assert labeler.name.startswith("chexbert-")


def test_the_states_are_those_of_the_network(folder):
    labeler = CheXbertLabeler(folder / "chexbert.pth", folder)
    ids = torch.tensor([[2, *(WORDS.index(word) for word in ("no", "effusion", ".")), 3]])
    logits = labeler.model(ids, torch.ones_like(ids))
    classes = {name: int(x.argmax()) for name, x in zip(CONDITIONS, logits, strict=True)}
    names = {1: "positive", 2: "negative", 3: "uncertain"}
    wanted = {name: names[chosen] for name, chosen in classes.items() if chosen}
    assert labeler(["No effusion."])[0] == wanted
    assert logits[-1].shape == (1, 2)
    assert set(CONDITIONS) == set(FINDINGS)
    # the published heads have opacity before lesion; CheXpert's table the other way round
    assert CONDITIONS.index("Lung Opacity") < CONDITIONS.index("Lung Lesion")


def test_texts_are_cut_at_512_tokens_and_not_at_512_characters(folder):
    labeler = CheXbertLabeler(folder / "chexbert.pth", folder)
    ids, _ = labeler._batch(["no effusion. " * 50 + "heart is large."])  # 665 characters
    assert ids.shape == (1, 2 + 150 + 4)
    assert ids[0, -5:].tolist() == [
        WORDS.index(word) for word in ["heart", "is", "large", ".", "[SEP]"]
    ]
    ids, mask = labeler._batch(["heart " * 600])
    assert ids.shape == mask.shape == (1, 512)
    assert ids[0, -1] == WORDS.index("[SEP]")


def test_what_is_missing_has_its_remedy(folder, tmp_path):
    with pytest.raises(MetricUnavailable, match=r"no weights at .*--chexbert FILE"):
        CheXbertLabeler(tmp_path / "gone.pth", folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(MetricUnavailable, match=r"no vocab\.txt in"):
        CheXbertLabeler(folder / "chexbert.pth", folder)


def test_pickles_and_other_weights_are_refused(folder):
    with pytest.raises(ValueError, match="holds more than tensors, and is not opened"):
        CheXbertLabeler(folder / "pickle.pth", folder)
    save_file({"weight": torch.ones(1)}, folder / "other.safetensors")
    with pytest.raises(ValueError, match="it is not CheXbert"):
        CheXbertLabeler(folder / "other.safetensors", folder)
    state = torch.load(folder / "chexbert.pth", weights_only=True)["model_state_dict"]
    del state["module.linear_heads.3.bias"]
    torch.save(state, folder / "short.pth")
    with pytest.raises(ValueError, match=r"1 names or shapes differ.*linear_heads\.3\.bias"):
        CheXbertLabeler(folder / "short.pth", folder)


PAIRS = ReportPairs(
    ("a", "b", "c"), ("a", "b", "c"), ("One.", "Two.", "Three."), ("One.", "", "X."), Resampling(20)
)


@pytest.fixture
def radeval(monkeypatch):
    """A module of that name with the interface of RadEval 2."""

    class RadEval:
        def __init__(self, metrics, per_sample=False):
            assert per_sample
            self.metrics = metrics

        def __call__(self, refs, hyps):
            self.calls.append((refs, hyps))
            if self.metrics == ["green"]:
                return {"green": 0.5}
            values = [float(a == b) for a, b in zip(refs, hyps, strict=True)]
            if self.metrics == ["radcliq"]:
                return {"radcliq_v1": [2.0, 3.0]}
            return {"radgraph_simple": values, "radgraph_partial": values}

    module = ModuleType("RadEval")
    module.RadEval = RadEval
    RadEval.calls = []
    monkeypatch.setitem(sys.modules, "RadEval", module)
    return RadEval


def test_radeval_gets_no_empty_text_and_an_empty_one_counts_as_the_worst(radeval):
    results = RadEvalMetric("radgraph").measure(PAIRS)
    assert [result.name for result in results] == [
        "radeval/radgraph_partial",
        "radeval/radgraph_simple",
    ]
    assert results[0].per_sample.values == (1, 0, 0)
    assert results[0].value == pytest.approx(1 / 3)
    assert radeval.calls == [(["One.", "Three."], ["One.", "X."])]
    (cliq,) = RadEvalMetric("radcliq").measure(PAIRS)
    assert cliq.per_sample.values == (2, 3, 3)
    assert cliq.higher_is_better is False


def test_radeval_without_values_per_sample_is_refused(radeval):
    with pytest.raises(ValueError, match="without one value for each"):
        RadEvalMetric("green").measure(PAIRS)
    with pytest.raises(ValueError, match=r"RadEval metric \('bleu'\) must be one of"):
        RadEvalMetric("bleu")
    assert isinstance(RadEvalMetric("green"), Metric)


def test_without_radeval_the_remedy_is_named():
    with pytest.raises(MetricUnavailable, match="pip install radeval"):
        RadEvalMetric("green").measure(PAIRS)


def test_radeval_has_no_worst_value_where_all_predictions_are_empty(radeval):
    empty = replace(PAIRS, predictions=("", " ", ""))
    assert RadEvalMetric("radgraph").measure(empty)[0].value == 0
    with pytest.raises(ValueError, match=r"all 3 predictions are empty; radcliq has no worst"):
        RadEvalMetric("radcliq").measure(empty)
    assert radeval.calls == []
