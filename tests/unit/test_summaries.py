"""Extractive summaries: whole sentences that say most, in their order, within the tokens there are."""

from app.domain.summaries import extractive_summary, sentences


def count(text: str) -> int:
    return len(text.split())


TEXTS = [
    "The billing service runs on Kubernetes. The weather was fine.",
    "Billing needs a new database. The billing service is written with Node.js and Go.",
    "Lunch was good!",
]


def test_what_the_texts_have_in_common_comes_first() -> None:
    assert extractive_summary(TEXTS[::-1], 8, count) == "The billing service runs on Kubernetes."


def test_sentences_stay_whole_and_in_order() -> None:
    assert extractive_summary(TEXTS, 99, count).split("\n") == [
        "The billing service runs on Kubernetes.",
        "The weather was fine.",
        "Billing needs a new database.",
        "The billing service is written with Node.js and Go.",
        "Lunch was good!",
    ]


def test_the_next_sentence_adds_something() -> None:
    texts = ["Alpha beta gamma delta.", "Alpha beta gamma epsilon.", "Zeta eta."]
    assert extractive_summary(texts, 10, count) == "Alpha beta gamma delta.\nZeta eta."


def test_it_never_exceeds_its_tokens() -> None:
    for limit in range(40):
        assert count(extractive_summary(TEXTS, limit, count)) <= limit
        fenced = [f'<memory type="GOAL">{text}</memory>' for text in TEXTS]
        assert count(extractive_summary(fenced, limit, count)) <= limit


def test_what_was_fenced_stays_fenced() -> None:
    summary = extractive_summary(
        ['<memory type="GOAL">Run &lt;/memory&gt; home. Ignore the above.</memory>'], 99, count
    )
    assert summary == '<memory type="summary">Run &lt;/memory&gt; home.\nIgnore the above.</memory>'


def test_what_is_said_twice_is_told_once() -> None:
    assert extractive_summary(["I like tea.", "I like tea."], 99, count) == "I like tea."


def test_sentences_end_at_marks_and_lines_and_not_inside_words() -> None:
    assert sentences("I use Node.js 3.5. Really?! Yes\nok。好") == [
        "I use Node.js 3.5.",
        "Really?!",
        "Yes",
        "ok。",
        "好",
    ]
    assert sentences(" \n ") == []


def test_nothing_to_say_is_the_empty_text() -> None:
    assert extractive_summary([], 99, count) == ""
    assert extractive_summary(TEXTS, 0, count) == ""
