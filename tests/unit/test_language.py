"""A model's answer has to be in a language that its user can read."""

from collections.abc import Sequence

import pytest

from app.clients.slm.language import is_foreign, warm
from tests.slm_server import RUSSIAN

ENGLISH = "Do you want me to write a REST API for the delivery service, with a test for every route?"
GERMAN = "Möchten Sie, dass ich eine Schnittstelle für den Lieferdienst schreibe, mit einem Test für jeden Pfad?"
FRENCH = "Voulez-vous que j'écrive une interface pour le service de livraison, avec un test pour chaque route ?"
JAPANESE = "配達サービスのためのインターフェースを書いて、すべての経路をテストしましょうか。"


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    warm()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (RUSSIAN, ["deploy my app to the cloud"]),
        (GERMAN, ["deploy my app to the cloud, please, and write the tests"]),
        (JAPANESE, ["build api"]),
        (FRENCH, ["写一个接口", "写一个接口 给我们的送货服务写一个接口"]),
    ],
)
def test_another_language_is_foreign(answer: str, said: Sequence[str]) -> None:
    assert is_foreign(answer, said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ENGLISH, ["build api"]),
        (ENGLISH, ["crée un tableau de bord"]),  # the rules would answer in English too
        (FRENCH, ["crée un tableau de bord"]),
        (GERMAN, ["erstelle eine Übersicht"]),
        (JAPANESE, ["ダッシュボードを作って"]),
        (RUSSIAN, ["создай панель"]),
        (RUSSIAN, ["build api", "build api Я работаю в службе доставки и пишу на языке Python"]),  # their notes are
        ("API?", ["写一个接口"]),  # too short to tell
        ("", ["build api"]),
        ("12345 67890", ["build api"]),
    ],
)
def test_what_a_user_can_read_is_not(answer: str, said: Sequence[str]) -> None:
    assert not is_foreign(answer, said)
