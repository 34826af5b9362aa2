"""Redaction hides what real secrets look like and leaves alone what only resembles them.

All values are invented; those with a vendor's prefix are put together from parts, so that no scanner takes
this file for a leak.
"""

import time

import pytest

from app.domain.redaction import KINDS, Redacted, merge_counts, redact

R36 = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
HEX32 = "0123456789abcdef" * 2
B64_40 = "wJalrXUtnFEMI" + "/K7MDENG/" + "bPxRfiCYEXAMPLE123"[:18]
PEM = "\n".join(
    [
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        "MIIEpAIBAAKCAQEA" + R36,
        R36 + "+/" + R36,
        "-----END RSA PRIVATE KEY-----",
    ]
)

EMAILS = [
    "jane.doe@example.com",
    "jane+news@mail.example.co.uk",
    "o'neill_7@sub-domain.example.org",
    "MÜLLER@example.de",
    "иван@пример.рф",
    "x@y.io",
]
PHONES = [
    "+1 202-555-0143",
    "+1 (202) 555-0143",
    "+12025550143",
    "+44 20 7946 0958",
    "+44 (0)20 7946 0958",
    "+44 7700 900123",
    "+49 30 23125 001",
    "+49 (0) 151 23456789",
    "+4915123456789",
    "+33 1 99 00 12 34",
    "+91 98765 43210",
    "+86 138 1234 5678",
    "+55 (11) 91234-5678",
    "+81 90-1234-5678",
    "0049 30 23125 001",
    "(202) 555-0143",
    "(555) 123-4567",
    "202-555-0143",
    "555-123-4567",
    "202.555.0143",
    "202 555 0143",
    "1-800-555-0199",
    "(202)555-0143 ext. 12",
    "020 7946 0958",
    "07700 900123",
    "(0117) 496 0123",
    "030 23125-001",
    "0151/23456789",
    "01 99 00 12 34",
    "06.12.34.56.78",
    "0412 345 678",
    "090-1234-5678",
    "138-1234-5678",
    "(11) 91234-5678",
]
NAMED_PHONES = [
    ("my phone is ", "2025550143", ""),
    ("tel: ", "5550143", ""),
    ("Tel. ", "030 1234567", ""),
    ("call me at ", "555-0143", " tonight"),
    ("text me on ", "07700900123", ""),
    ("phone number: ", "612 345 678", ""),
    ("mobile=", "9876543210", ""),
    ("WhatsApp: ", "5511912345678", ""),
    ("meine Handynummer ist ", "015123456789", ""),
    ("手机：", "13812345678", ""),
    ("мой телефон ", "89161234567", ""),
    ("", "2025550143", " is my cell"),
    ("", "5550143", " (mobile)"),
    ("my number is ", "2025550143", ", thanks"),
]
KEYS = [
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ASIA" + "QWERTY1234567890",
    "ghp_" + R36,
    "gho_" + R36,
    "github_pat_" + "11ABCDEFG0" + "_" + R36 + R36,
    "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "xoxb-" + "123456789012-123456789012-" + R36[:24],
    "xapp-" + "1-A012345-123456-" + HEX32,
    "sk_live_" + R36[:24],
    "rk_test_" + R36[:24],
    "whsec_" + R36,
    "sk-" + R36 + R36[:12],
    "sk-proj-" + R36 + "_" + R36,
    "sk-ant-api03-" + R36 + "-" + R36 + "AA",
    "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "GOCSPX-" + R36[:28],
    "ya29." + R36,
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0." + R36,
    "npm_" + R36,
    "pypi-" + "AgEIcHlwaS5vcmc" + R36 + R36,
    "hf_" + R36[:34],
    "gsk_" + R36,
    "SG." + R36[:22] + "." + R36 + R36[:7],
    "hvs." + R36,
    "hooks.slack.com/services/" + "T00000000/B00000000/" + R36[:24],
    PEM,
    PEM.replace("\n", "\\n"),
]
ASSIGNED = [
    ("Authorization: Bearer ", "f3a9c1d2e4b5", ""),
    ("curl -H 'Authorization: Bearer ", R36 + "==", "'"),
    ("Authorization: Basic ", "dXNlcjpwYXNzd29yZDEy", ""),
    ("password: ", "hunter2", ""),
    ("Password = ", "Tr0ub4dor&3", ""),
    ("pwd=", "s3cr3t!", ""),
    ("my password is ", "hunter2", ", ok?"),
    ('"password": "', "correct horse battery", '"'),
    ("password: ", "correct-horse-battery", "\n"),
    ("PASSWORD=", "swordfish", ""),
    ("export DB_PASSWORD=", "swordfish", "\n"),
    ("passphrase: '", "opensesame", "'"),
    ("api_key=", "a1b2c3d4e5f6", ""),
    ("API key: ", HEX32, ""),
    ("apikey: ", "550e8400-e29b-41d4-a716-446655440000", ""),
    ("OPENAI_API_KEY='", R36, "'"),
    ("?access_token=", "a1b2c3d4e5", "&page=2"),
    ("client_secret: ", "x9-y8-z7-w6", ""),
    ('{"token": "', "abc123def456", '"}'),
    ("aws_secret_access_key = ", B64_40, ""),
    ("the AWS secret is ", B64_40, ""),
    ("postgresql://", "app:s3cr3t", "@db.internal:5432/app"),
    ("https://", "bob:p@ss", "@example.com/path"),
    ('{\\"password\\": \\"', "hunter2", '\\"}'),
    ("password: '", "hunter2", ""),
    ("secret: password: ", "hunter2", ""),
    ("token=", "9f8e7d6c" * 80, " "),
    ("redis://", ":hunter2", "@localhost:6379"),
]
CARDS = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111.1111.1111.1111",
    "4222222222222",
    "5555555555554444",
    "2223 0031 2200 3222",
    "3782 822463 10005",
    "371449635398431",
    "6011 1111 1111 1117",
    "3530111333300000",
    "30569309025904",
    "6200000000000005",
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
]
IBANS = [
    "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00",
    "GB82 WEST 1234 5698 7654 32",
    "FR14 2004 1010 0505 0001 3M02 606",
    "NL91ABNA0417164300",
    "CH93-0076-2011-6238-5295-7",
    "gb82west12345698765432",
    "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    "NO93 8601 1117 947",
]
PLANTED = [
    *[("EMAIL", "", secret, "") for secret in EMAILS],
    *[("PHONE", "", secret, "") for secret in PHONES],
    *[("PHONE", *parts) for parts in NAMED_PHONES],
    *[("API_KEY", "", secret, "") for secret in KEYS],
    *[("API_KEY", *parts) for parts in ASSIGNED],
    *[("CARD", "", secret, "") for secret in CARDS],
    *[("IBAN", "", secret, "") for secret in IBANS],
]

HARMLESS = [
    "",
    "build api",
    "Could you help me refactor the payment service so that it is easier to test?",
    # dates, times, versions, addresses of machines
    "released 2024-01-15 at 10:30:00, again on 15.01.2024 and 01/15/2024",
    "2024-01-15T10:30:00+01:00 2024-01-16T11:31:01.123456Z",
    "01.02.2024 10 uhr, 20240115 103000",
    "from 2019-2024, pages 211-227 (2003), chapters 10-12",
    "v1.2.3, 10.15.7, python 3.11.7, torch==2.10.0+cu128",
    "ping 10.0.0.1 and 192.168.100.200, then 255.255.255.0, port 8080",
    "call 192.168.100.200 now",
    "on 1700000000 and 1700000000000 (epoch), +0100",
    # ids and amounts
    "order 12345678, order number is 2025550143, invoice 4111111111111112",
    "tracking 1234567890, ticket 202555014, PO 00012345678",
    "ISBN 978-3-16-148410-0, EAN 4006381333931",
    "550e8400-e29b-41d4-a716-446655440000 and 12345678-1234-4234-8234-123456789012",
    "commit 3c363836cf4e16666669a25da280a1865c2d2874 (main)",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "1 000 000 000 people, 1.000.000,00 EUR, $1,234,567.89, 0.4111111111111111",
    "lat 52.520008, lon 13.404954; pi is 3.14159265358979",
    "https://example.com/preview/524/680/1013/man.jpg, /files/1/0586/8149/1647/t, /2018/02/09230004/x.jpg",
    "SKU-202-555-0143 costs 12345678 points",
    "[0.69736803, 0.09417735, 4.981176042584683, -1.50629471], 00:00:02.12345678",
    "token: TextGenerationStreamOutputToken, password: SecretBytes",
    "'--registry-password': container_registry_password,",
    "0-99-4-000-61772-1, 084308984-8",
    "matrix: 100 200 300 400 500 600 700",
    "zip 02139-4307",
    "DE89 3704 0044 0532 0130 01 has a wrong check digit",
    # code
    "x = [1, 2, 3]; y = x @ w; z = a@w.mean()",
    "@app.get('/users') def f(): ...; icon@2x.png; react@18.2.0; git@github.com:org/repo.git",
    "def login(user: str, password: str, token: Token | None = None) -> str:",
    "login(user=user, password=password, api_key=settings.api_key2)",
    "password = os.environ['DB_PASSWORD']; token = get_token(); api_key = self.key2",
    "password: ${DB_PASSWORD}, token: {{ secrets.TOKEN1 }}, secret: <your-secret>, api_key: $API_KEY",
    '{"password": "string", "token": null, "api_key": "***"}',
    "token: string, max_tokens=4096, tokens: 12345678, primary_key: 12345678",
    "The password is wrong. Password: required field. A token: a unit of text. The secret is to rest.",
    "is the password case-sensitive? password is 256-bit encrypted",
    "Bearer authentication is used; a bearer token-based scheme",
    ".sk-fading-circle-container-large { color: red } task-management-software-2024-edition",
    "curl http://localhost:8080/v1/users?x=1, https://example.com/@jane/posts",
    "pip install scikit-learn; AKIA is a prefix; eyJ too; ghp_ as well",
    "my phone has 128 GB and cost 1000 euros",
    "@mention someone, a @ b, foo@bar, name@localhost",
    "[EMAIL] [PHONE] [API_KEY] [CARD] [IBAN] password: [API_KEY]",
]


@pytest.mark.parametrize(("kind", "before", "secret", "after"), PLANTED)
def test_hides_the_secret_and_only_the_secret(kind: str, before: str, secret: str, after: str) -> None:
    assert redact(before + secret + after) == Redacted(f"{before}[{kind}]{after}", {kind: 1})


@pytest.mark.parametrize(("kind", "before", "secret", "after"), PLANTED)
@pytest.mark.parametrize(
    ("opening", "closing"),
    [("Hi, ", " thanks!"), ("(", ")"), ("see: ", ".\nNext line"), ("a 12 b ", ", 34 c"), ("<b>", "</b>"), ('"', '"')],
)
def test_hides_it_in_a_sentence(kind: str, before: str, secret: str, after: str, opening: str, closing: str) -> None:
    result = redact(opening + before + secret + after + closing)
    assert secret not in result.text
    assert result.counts.get(kind) == 1


@pytest.mark.parametrize("text", HARMLESS)
def test_leaves_harmless_text_alone(text: str) -> None:
    assert redact(text) == Redacted(text, {})


@pytest.mark.parametrize("text", ["".join(parts) for _, *parts in PLANTED])
def test_is_idempotent(text: str) -> None:
    once = redact(text)
    assert redact(once.text) == Redacted(once.text, {})


def test_counts_every_kind() -> None:
    text = f"{EMAILS[0]} {EMAILS[1]}, {PHONES[0]}; {KEYS[2]} | {CARDS[1]} | {IBANS[1]}"
    assert redact(text) == Redacted(
        "[EMAIL] [EMAIL], [PHONE]; [API_KEY] | [CARD] | [IBAN]",
        {"EMAIL": 2, "PHONE": 1, "API_KEY": 1, "CARD": 1, "IBAN": 1},
    )
    assert set(redact(text).counts) == set(KINDS)


def test_finds_a_card_among_other_numbers() -> None:
    assert redact("2024 4111 1111 1111 1111 12/27 123").text == "2024 [CARD] 12/27 123"
    assert redact("id,card\n7,4111111111111111,5\n8,5555555555554444,6").text == "id,card\n7,[CARD],5\n8,[CARD],6"


def test_finds_both_halves_of_an_aws_key() -> None:
    assert redact(f"aws: {KEYS[0]} {B64_40}") == Redacted("aws: [API_KEY] [API_KEY]", {"API_KEY": 2})


def test_finds_two_phones_in_a_row() -> None:
    assert redact("202-555-0143 / 202-555-0144").text == "[PHONE] / [PHONE]"
    assert redact("202-555-0143/202-555-0144").text == "[PHONE]/[PHONE]"
    assert redact("+49 30 23125 001, +49 151 23456789").text == "[PHONE], [PHONE]"
    assert redact("030 23125001 0151 23456789, room 4 020 7946 0958").text == "[PHONE] [PHONE], room 4 [PHONE]"


def test_a_private_key_cut_short_is_hidden_too() -> None:
    torn = PEM.rpartition("-----END")[0].rstrip()
    assert redact(f"key:\n{torn}\nand then").text == "key:\n[API_KEY]\nand then"


def test_numbers_in_other_digits_are_found() -> None:
    arabic = "4111111111111111".translate({ord("0") + n: 0x0660 + n for n in range(10)})
    assert redact(f"بطاقة {arabic}").counts == {"CARD": 1}


def test_counts_are_merged_by_kind() -> None:
    assert merge_counts({"EMAIL": 1}, {}, {"EMAIL": 2, "CARD": 1}) == {"EMAIL": 3, "CARD": 1}


def test_a_short_text_without_secrets_is_cheap() -> None:
    text = "Could you please help me write a small service that stores user preferences, and test it well now?"
    redact(text)
    best = min(_timed(text) for _ in range(20))
    assert best < 50e-6, f"{best * 1e6:.1f} us"


def _timed(text: str, times: int = 50) -> float:
    started = time.perf_counter()
    for _ in range(times):
        redact(text)
    return (time.perf_counter() - started) / times
