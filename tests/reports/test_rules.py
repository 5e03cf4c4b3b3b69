"""Every rule does what its example says, leaves its counter-example, and is found by its words."""

from pathlib import Path

import pytest
from scoring import read_sentences

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.config import CleanerConfig
from unix_cxr.reports.decide import REMOVE, Decider
from unix_cxr.reports.records import Category
from unix_cxr.reports.rules import CATALOGUE, Action, Rule
from unix_cxr.reports.rules.document import catalogue_markdown
from unix_cxr.reports.rules.protect import PROTECTED
from unix_cxr.reports.steps import Draft

DECIDER = Decider(CATALOGUE)
SENTENCES = [item.sentence for half in ("dev", "frozen") for item in read_sentences(half)]
ROOT = Path(__file__).parents[2]


def by_name(rules):
    return pytest.mark.parametrize("rule", rules, ids=[rule.name for rule in rules])


@by_name(CATALOGUE)
def test_example(rule):
    decision = DECIDER(rule.example[0])
    assert rule.name in decision.rules
    assert ("" if decision.action == REMOVE else decision.text) == rule.example[1]


@by_name(CATALOGUE)
def test_counter_example_is_left_alone(rule):
    decision = Decider([rule])(rule.counter_example)
    assert (decision.action, decision.text) == ("keep", rule.counter_example)


@by_name(CATALOGUE)
def test_result_is_left_alone(rule):
    """Idempotence, rule by rule."""
    if rule.example[1]:
        assert DECIDER(rule.example[1]).text == rule.example[1]


def test_names_are_unique_and_tell_their_category():
    names = [rule.name for rule in CATALOGUE]
    assert len(set(names)) == len(names)
    for rule in CATALOGUE:
        prefix = rule.name.split(".")[0]
        assert prefix == rule.category.value or (prefix, rule.category) == ("change", "prior")


@pytest.mark.parametrize(("name", "pattern", "example"), PROTECTED, ids=[p[0] for p in PROTECTED])
def test_protected_contexts_stay(name, pattern, example):
    decision = DECIDER(example)
    assert (decision.action, decision.text) == ("keep", example)


def test_the_prefilter_changes_no_decision():
    """A trigger word that is missing from a rule would show here."""
    exhaustive = Decider(CATALOGUE, prefilter=False)
    examples = [rule.example[0] for rule in CATALOGUE]
    for sentence in SENTENCES + examples:
        assert DECIDER(sentence) == exhaustive(sentence)


def test_a_rule_needs_triggers_of_one_word():
    values = {
        "name": "x.y",
        "category": Category.PRIOR,
        "pattern": "y",
        "example": ("a", "b"),
        "counter_example": "c",
    }
    with pytest.raises(ValueError, match="needs at least one trigger"):
        Rule(**values, triggers=frozenset())
    with pytest.raises(ValueError, match=r"not single words: \['two words'\]"):
        Rule(**values, triggers=frozenset(("two words",)))


def test_a_rule_of_ones_own():
    rule = Rule(
        name="administrative.house",
        category=Category.ADMINISTRATIVE,
        pattern=r"^Read at .* hospital",
        triggers=frozenset(("hospital",)),
        example=("Read at General hospital.", ""),
        counter_example="Hospital bed rails overlie the bases.",
        action=Action.REMOVE,
    )
    report = ReportCleaner(extra_rules=[rule]).clean("Read at General Hospital. Clear lungs.")
    assert report.text == "Clear lungs."
    assert report.removed[0].rule == "administrative.house"


class Shout:
    name = "shout"
    example = ("Clear lungs.", "")
    counter_example = "Nothing."

    def __call__(self, draft: Draft) -> None:
        draft.text = draft.text.replace("clearly wrong", "clear")


def test_a_step_of_ones_own():
    report = ReportCleaner(first_steps=[Shout()]).clean("Lungs are clearly wrong.")
    assert report.text == "Lungs are clear."


@pytest.mark.parametrize("preset", ["unix", "conservative"])
def test_steps_have_examples(preset):
    cleaner = ReportCleaner(preset)
    for step in cleaner.steps:
        before, after = step.example
        if not (preset == "conservative" and step.name in {"decide", "agree"}):
            assert cleaner.clean(before).text == after, step.name
        kept = cleaner.clean(step.counter_example)
        assert kept.text.rstrip(".") == step.counter_example.rstrip("."), step.name


def test_conservative_keeps_change_and_cuts_references():
    cleaner = ReportCleaner("conservative")
    text = "Stable cardiomegaly compared to the study of ___. Dr. ___ was paged. New effusion."
    assert cleaner.clean(text).text == "Stable cardiomegaly. New effusion."


def test_config_refuses_what_it_does_not_know(tmp_path):
    file = tmp_path / "clean.yaml"
    file.write_text("preset: unix\nkeep_section: [findings]\n")
    with pytest.raises(ValueError, match="keep_section"):
        CleanerConfig.from_yaml(file)
    with pytest.raises(ValueError, match=r"unknown rules \['prior.nonsense'\]"):
        CleanerConfig(disabled_rules=("prior.nonsense",))
    with pytest.raises(ValueError, match=r"unknown sections \['finding'\]"):
        CleanerConfig(keep_sections=("finding",))
    file.write_text("- unix\n")
    with pytest.raises(TypeError, match="must hold a mapping"):
        CleanerConfig.from_yaml(file)
    file.write_text("preset: unix\ndisabled_rules: [change.steady-adjective]\n")
    assert (
        ReportCleaner.from_yaml(file).clean("Stable cardiomegaly.").text == "Stable cardiomegaly."
    )


def test_preset_and_config_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        ReportCleaner("unix", config=CleanerConfig())


def test_the_published_catalogue_is_the_code():
    page = ROOT / "docs" / "reference" / "cleaning-rules.md"
    assert page.read_text(encoding="utf-8") == catalogue_markdown(), (
        "run: python -m unix_cxr.reports.rules.document > docs/reference/cleaning-rules.md"
    )
