"""Hiding secrets and personal numbers in text: e-mail addresses, phone numbers, keys and tokens, payment
cards, bank accounts.

Shapes of tokens are the vendors' own public formats; IBANs and the Luhn sum are checked by python-stdnum,
phone numbers by phonenumbers (libphonenumber's metadata). Where a rule must err, a value beside a word such
as "password" or "phone" is hidden, and a bare number is left alone. Not covered: secrets spelled out in
words, local parts of e-mail addresses longer than 64 characters, phone numbers without formatting and
without a word that says what they are.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
from stdnum import iban, luhn, numdb

KINDS = ("API_KEY", "EMAIL", "IBAN", "CARD", "PHONE")
"""What is looked for, in this order (digits inside a key are a part of the key). Each is replaced by its
name in brackets, e.g. `[EMAIL]`."""

MAX_PHONE_CHECKS = 1000
"""Phone numbers of one text that are looked up in libphonenumber's metadata (20 to 50 us each); beyond it
a number is hidden by its shape alone, so that a hostile text costs no more and gains nothing."""

MAX_ROUNDS = 8
"""How often a text is gone over until nothing more is found; a bound for texts built to need more. Without
secrets one round is enough, with them nearly always two."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without its secrets, and how many of each kind were hidden (only kinds that occur)."""

    text: str
    counts: dict[str, int]


def redact(text: str) -> Redacted:
    """`text` with each secret replaced by its kind in brackets, e.g. `mail [EMAIL]`.

    Idempotent; linear in the length of `text`; about 8 us for 100 characters of prose, 20 to 60 us where
    there are dates and long numbers, some 100 us more for each phone number.
    """
    counts: dict[str, int] = {}
    for _ in range(MAX_ROUNDS):
        before = text
        text = _redact_once(text, counts)
        if text is before:
            break
    return Redacted(text, counts)


def _redact_once(text: str, counts: dict[str, int]) -> str:
    text = _hide(text, "API_KEY", _find_keys(text), counts)
    if "@" in text:
        text = _hide(text, "EMAIL", _find_emails(text), counts)
    if _THREE_DIGITS.search(text):
        text = _hide(text, "IBAN", _find_ibans(text), counts)
    chains = _chains(text)
    if chains:
        before = text
        text = _hide(text, "CARD", _find_cards(text, chains), counts)
        chains = chains if text is before else _chains(text)
        text = _hide(text, "PHONE", _find_phones(text, chains), counts)
    return text


def _hide(text: str, kind: str, found: Iterator[Span], counts: dict[str, int]) -> str:
    """`text` with each span as `[kind]`, overlapping ones as one, counted; the same object without any."""
    spans = sorted(found)
    if not spans:
        return text
    parts: list[str] = []
    done = 0
    for start, end in spans:
        if not parts or start >= done:
            parts += (text[done:start], f"[{kind}]")
        done = max(done, end)
    counts[kind] = counts.get(kind, 0) + len(parts) // 2
    return "".join([*parts, text[done:]])


def merge_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """The sum of several `Redacted.counts`, kind by kind."""
    total: dict[str, int] = {}
    for one in counts:
        for kind, hidden in one.items():
            total[kind] = total.get(kind, 0) + hidden
    return total


# --- keys and tokens ---------------------------------------------------------------------------------------

_URLSAFE = r"[A-Za-z0-9_-]"
_PREFIXES = (
    # (what the token starts with, what follows)
    ("AKIA", r"[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS access keys, permanent and temporary, and other ids
    ("ASIA", r"[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("AROA", r"[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("ABIA", r"[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("ghp_", r"[A-Za-z0-9]{20,}"),  # GitHub
    ("gho_", r"[A-Za-z0-9]{20,}"),
    ("ghu_", r"[A-Za-z0-9]{20,}"),
    ("ghs_", r"[A-Za-z0-9]{20,}"),
    ("ghr_", r"[A-Za-z0-9]{20,}"),
    ("github_pat_", r"[A-Za-z0-9_]{20,}"),
    ("glpat-", r"[A-Za-z0-9_.-]{16,}"),  # GitLab
    ("glptt-", r"[A-Za-z0-9_.-]{16,}"),
    ("gldt-", r"[A-Za-z0-9_.-]{16,}"),
    ("glrt-", r"[A-Za-z0-9_.-]{16,}"),
    ("glcbt-", r"[A-Za-z0-9_.-]{16,}"),
    ("xox", r"[abceoprs](?:\.xox[abceoprs])?-[A-Za-z0-9-]{10,}"),  # Slack
    ("xapp-", r"[A-Za-z0-9-]{10,}"),
    ("hooks.slack.com/services/", r"[A-Za-z0-9/]{20,}"),
    ("sk_live_", r"[A-Za-z0-9]{10,}"),  # Stripe
    ("sk_test_", r"[A-Za-z0-9]{10,}"),
    ("rk_live_", r"[A-Za-z0-9]{10,}"),
    ("rk_test_", r"[A-Za-z0-9]{10,}"),
    ("pk_live_", r"[A-Za-z0-9]{10,}"),
    ("pk_test_", r"[A-Za-z0-9]{10,}"),
    ("whsec_", r"[A-Za-z0-9+/=]{20,}"),
    ("sk-", rf"(?={_URLSAFE}{{0,64}}[0-9]){_URLSAFE}{{20,}}"),  # OpenAI, Anthropic and alike
    ("gsk_", r"[A-Za-z0-9]{20,}"),
    ("hf_", r"[A-Za-z0-9]{30,}"),
    ("AIza", rf"{_URLSAFE}{{30,}}"),  # Google
    ("GOCSPX-", rf"{_URLSAFE}{{20,}}"),
    ("ya29.", rf"{_URLSAFE}{{20,}}"),
    ("eyJ", rf"(?<![_-]eyJ){_URLSAFE}{{5,}}+\.{_URLSAFE}{{5,}}+\.(?:{_URLSAFE}|\.)*"),  # JWT, JWE
    ("npm_", r"[A-Za-z0-9]{30,}"),
    ("pypi-", rf"{_URLSAFE}{{40,}}"),
    ("dop_v1_", r"[a-f0-9]{32,}"),
    ("SG.", rf"{_URLSAFE}{{16,64}}\.{_URLSAFE}{{16,}}"),
    ("shpat_", r"[A-Fa-f0-9]{32,}"),
    ("hvs.", rf"{_URLSAFE}{{20,}}"),
    ("AGE-SECRET-KEY-1", r"[A-Z0-9]{40,}"),
)


def _token(prefix: str, body: str) -> tuple[str, re.Pattern[str]]:
    # The literal comes first, so that the engine can leap to it.
    start = re.escape(prefix)
    return prefix, re.compile(f"({start}(?<![A-Za-z0-9]{start}){body})")


_TOKENS = tuple(_token(prefix, body) for prefix, body in _PREFIXES)
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}-----")
_PEM_TORN = re.compile(r"(?:(?:\s|\\[nr])*+[A-Za-z0-9+/=]{16,}+)*+")
_PEM_LENGTH = 16_384
_URL_LOGIN = re.compile(r"://([^\s/?#@:\[\]{}<>$]{0,64}:[^\s/?#\[\]{}<>]{1,128})@")
_BEARER = re.compile(r"\bbearer\s{1,4}([A-Za-z0-9._~+/-]{8,}+={0,2})", re.IGNORECASE)
_BASIC = re.compile(r"\bauthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?basic\s{1,4}([A-Za-z0-9+/]{8,}+={0,2})", re.I)
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9/+])([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])")
_ASSIGNED = re.compile(
    r"""(?P<word>pass(?:word|wd|phrase|code)|pwd|(?:api|access|account|private|secret)[ _-]?(?:access[ _-]?)?key
        |(?:client|app|signing|webhook)[ _-]?secret|(?:access|auth|refresh|bearer|bot|api)[ _-]?token|secret|token)
        \\?["'`]?\]?\s{0,4}(?P<sign>:=|=>|[:=]|\bis\b)\s{0,4}\\?
        (?:"(?P<double>[^"\n]{4,256})"|'(?P<single>[^'\n]{4,256})'|`(?P<tick>[^`\n]{4,256})`
        |["'`]?(?P<bare>(?:[^\s"'`,;&]|[,;&](?!\w{1,32}=)(?=[^\s"'`])){4,256}))""",
    re.IGNORECASE | re.VERBOSE,
)
_LONG_REST = re.compile(r"[^\s\"'`,;&]*")
_ASSIGNMENT_WORDS = ("pass", "pwd", "key", "secret", "token")
_NOT_SECRET = frozenset(
    "string strings secretstr str text bytes char varchar none null nil true false undefined required optional "
    "password passwd passphrase token secret hidden redacted missing invalid incorrect wrong expired empty unset "
    "changed unchanged forgotten needed protected unknown default example value type field input object number "
    "function const return header bearer basic forgot reset manager policy sent valid correct".split()
)
_IDENTIFIER_ROOTS = frozenset(
    "self os cls this settings config cfg conf env args kwargs process request req response res user data ctx "
    "context app options opts params props secrets credentials body form event state vault values vars var "
    "local module output outputs steps github inputs matrix".split()
)
_REFERENCE = re.compile(r"\$[A-Z_][A-Z0-9_]*+\Z|[A-Za-z_][\w.]*+[(\[]|\$\(|\$\{|%[(s]|[{<\[*]|\\?u?\*|…|\.\.\.")
_WORDY = re.compile(r"[^\W\d_][^\W\d]*+(?:[.'’/-][^\W\d]++)*+\Z")
_CAMEL_CASE = re.compile(r"(?:[A-Z][a-z]++){2,}+\Z")
_ENDS_LINE = re.compile(r"[.,;:!?)\]}\"'`]{0,4}[ \t]{0,8}(?:\Z|[\r\n])")


def _find_keys(text: str) -> Iterator[Span]:
    for prefix, pattern in _TOKENS:
        if prefix in text:
            yield from _first_groups(pattern, text)
    if "PRIVATE KEY" in text:
        yield from _find_private_keys(text)
    if "://" in text and "@" in text:
        yield from _first_groups(_URL_LOGIN, text)
    lower = text.lower()
    if "bearer" in lower:
        yield from _first_groups(_BEARER, text, _is_opaque)
    if "basic" in lower and "authorization" in lower:
        yield from _first_groups(_BASIC, text)
    if "aws" in lower or "AKIA" in text or "ASIA" in text:
        yield from _first_groups(_AWS_SECRET, text, _has_all_classes)
    if any(word in lower for word in _ASSIGNMENT_WORDS):
        yield from _find_assigned(text)


def _first_groups(
    pattern: re.Pattern[str], text: str, is_secret: Callable[[str], bool] | None = None
) -> Iterator[Span]:
    for match in pattern.finditer(text):
        if is_secret is None or is_secret(match[1]):
            yield match.span(1)


def _find_private_keys(text: str) -> Iterator[Span]:
    done = 0
    for begin in _PEM.finditer(text):
        if begin.start() < done:
            continue
        end = _PEM_END.search(text, begin.end(), begin.end() + _PEM_LENGTH)
        torn = _PEM_TORN.match(text, begin.end())
        done = end.end() if end else torn.end() if torn else begin.end()
        yield begin.start(), done


def _is_opaque(value: str) -> bool:
    """Whether a bearer value looks like a token and not like a word of a sentence."""
    return any(c.isdigit() for c in value) or (value.isalpha() and len(value) >= 20)


def _has_all_classes(value: str) -> bool:
    """Whether a value mixes upper case, lower case and digits, as random base64 does and a hash does not."""
    return any(c.isupper() for c in value) and any(c.islower() for c in value) and any(c.isdigit() for c in value)


def _find_assigned(text: str) -> Iterator[Span]:
    covered = 0
    match = _ASSIGNED.search(text)
    while match:
        group = match.lastgroup or "bare"
        start, end = match.span(group)
        value = match[group].rstrip(".,;:)]}>*\\" if group == "bare" else "\\")
        if len(value) >= 4 and not _REFERENCE.match(value) and _is_assigned_secret(match, value, text):
            rest = _LONG_REST.match(text, end) if end - start >= 256 and end > covered else None
            covered = max(covered, rest.end() if rest else start + len(value))
            yield start, covered
        # A value may itself hold `password="...`, so the search goes on inside it.
        match = _ASSIGNED.search(text, match.end("sign"))


def _is_assigned_secret(match: re.Match[str], value: str, text: str) -> bool:
    word, sign, is_bare = match["word"], match["sign"], match.lastgroup == "bare"
    is_password = word[0] in "pP" and not word.lower().endswith("key")
    if value.lower() in _NOT_SECRET or (is_bare and _is_code_path(value)):
        return False
    if not is_password:
        return _is_assigned_token(value, is_bare)
    if sign.lower() == "is":
        return any(c.isdigit() for c in value) and not re.fullmatch(r"\d+-?[a-z]+", value)
    if not _WORDY.match(value):
        return True
    if not is_bare:
        return " " not in value.strip() or len(value) >= 12
    if sign == "=":
        return word.isupper()
    is_name = "_" in value or _CAMEL_CASE.match(value)
    return len(value) >= 6 and not is_name and bool(_ENDS_LINE.match(text, match.start("bare") + len(value)))


def _is_assigned_token(value: str, is_bare: bool) -> bool:
    """Whether what is assigned to a key or token can be one: 8 characters or more, with digits among others."""
    if len(value) < 8 or " " in value:
        return False
    digits = sum(c.isdigit() for c in value)
    if digits == len(value):
        return digits >= 16
    return digits >= (2 if is_bare else 1) or (not is_bare and len(value) >= 20 and value.isalpha())


def _is_code_path(value: str) -> bool:
    """Whether a value is a name in a program, e.g. `settings.api_key2`."""
    return value.partition(".")[0].lower() in _IDENTIFIER_ROOTS and "." in value


# --- e-mail addresses --------------------------------------------------------------------------------------

_LOCAL = re.compile(r"[A-Za-z0-9À-ɏ_.+%'-]{1,64}\Z")
_LOCAL_ANY = re.compile(r"[\w.+%'-]{1,64}\Z")
_DOMAIN = re.compile(r"(?:[^\W_][\w-]{0,62}\.){1,8}(?:[A-Za-z]{2,24}(?![A-Za-z0-9_-])|[^\W\d_]{2,24})")
_RETINA = re.compile(r"[1-9]x\.(?:png|jpe?g|gif|webp|svg|avif)\b")
_COMMON_TLDS = frozenset({"com", "org", "net", "edu", "gov", "info", "biz", "dev", "app"})


def _find_emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        if domain:
            before = text[max(0, at - 64) : at]
            local = _LOCAL.search(before) or _LOCAL_ANY.search(before)
            if local and not _is_code(text, local[0], domain):
                yield at - len(local[0].lstrip(".'-")), domain.end()
        at = text.find("@", at + 1)


def _is_code(text: str, local: str, domain: re.Match[str]) -> bool:
    """Whether an address-shaped text is `a@b.sum()`, `icon@2x.png` or `git@host.org:path`."""
    if not local.strip(".'-"):
        return True
    after = text[domain.end() : domain.end() + 2]
    if local == "git" and after[:1] == ":":
        return True
    tld = domain[0].rpartition(".")[2].lower()
    is_call = after[:1] == "(" and len(tld) > 2 and tld not in _COMMON_TLDS
    return is_call or _RETINA.match(domain[0]) is not None


# --- numbers: bank accounts, cards, phones -----------------------------------------------------------------

_GAP = r"[ \t\u00a0\u2009\u202f.()/\-\u2010-\u2015]"
_THREE_DIGITS = re.compile(r"\d\d.?[A-Za-z0-9]")
_SEVEN_DIGITS = re.compile(rf"\d(?:{_GAP}{{0,3}}\d){{6}}")
_CHAIN = re.compile(rf"\d++(?:{_GAP}{{1,3}}+\d++)*+")
_DIGITS = re.compile(r"\d++")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_UUID = re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b")
# What looks like a number to hide and is not: dates, IPv4 addresses, decimal fractions.
_INERT = re.compile(
    r"(?<!\d)(?<!\d[-./])(?:(?:19|20)\d\d(?P<a>[-./])(?:0?[1-9]|1[0-2])(?P=a)(?:3[01]|[12]\d|0?[1-9])(?!\d|(?P=a)\d)"
    r"|(?:3[01]|[12]\d|0?[1-9])(?P<b>[-./])(?:3[01]|[12]\d|0?[1-9])(?P=b)(?:(?:19|20)\d\d|\d\d)(?!\d|(?P=b)\d)"
    rf"|{_OCTET}(?:\.{_OCTET}){{3}}(?!\d|\.\d)|(?<!\+)(?:0|[1-9]\d{{0,8}})\.\d{{4,40}}(?![-./]?\d))"
)


def _chains(text: str) -> list[list[Span]]:
    """Runs of groups of digits (7 or more) that only spaces and punctuation divide, each as its groups.

    UUIDs, dates, IPv4 addresses and decimal fractions take no part.
    """
    chains: list[list[Span]] = []
    if not _SEVEN_DIGITS.search(text):
        return chains
    if text.count("-") >= 4:
        text = _UUID.sub("_" * 36, text)
    for chain in _CHAIN.finditer(text):
        start, end = chain.span()
        if end - start < 7:
            continue
        for inert in _INERT.finditer(text, start, end):
            _add_chain(chains, text, start, inert.start())
            start = inert.end()
        _add_chain(chains, text, start, end)
    return chains


def _add_chain(chains: list[list[Span]], text: str, start: int, end: int) -> None:
    if end - start >= 7:
        chains.append([group.span() for group in _DIGITS.finditer(text, start, end)])


def _digits(text: str, groups: list[Span]) -> str:
    """The digits of the groups in ASCII, whatever script they are written in."""
    joined = "".join([text[start:end] for start, end in groups])
    return joined if joined.isascii() else "".join(str(unicodedata.decimal(c)) for c in joined)


def _is_word(char: str) -> bool:
    return char == "_" or (char.isascii() and char.isalnum())


def _is_cut_off(text: str, start: int, end: int) -> bool:
    """Whether what is around start..end makes it a part of a longer word or of a decimal number."""
    if (start and _is_word(text[start - 1])) or (end < len(text) and _is_word(text[end])):
        return True
    is_fraction = start > 1 and text[start - 1] == "." and text[start - 2].isdigit()
    return is_fraction or (text[end : end + 1] == "." and text[end + 1 : end + 2].isdigit())


_IBAN_START = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)(?<![A-Za-z0-9][A-Za-z]{2}\d\d)(?=[ \u00a0.-]?[A-Za-z0-9]{2})")
_IBAN_PART = re.compile(r"(\d++)!")


@lru_cache(maxsize=1024)
def _iban_length(country: str) -> int:
    """How many characters an IBAN of the country has; 0 where the country has none."""
    for _, facts in numdb.get("iban").info(country):
        if "bban" in facts:
            return 4 + sum(int(length) for length in _IBAN_PART.findall(facts["bban"]))
    return 0


def _find_ibans(text: str) -> Iterator[Span]:
    for match in _IBAN_START.finditer(text):
        start = match.start() - 2
        end = _iban_end(text, start, _iban_length(text[start : start + 2].upper()))
        if end and (end == len(text) or not _is_word(text[end])):
            compact = "".join(c for c in text[start:end] if c.isalnum()).upper()
            if compact.isascii() and iban.is_valid(compact, check_country=False):
                yield start, end


def _iban_end(text: str, start: int, length: int) -> int:
    """Where `length` letters and digits from `start` on, at most one separator between two, end; else 0."""
    left, is_gap = length, False
    for index in range(start, min(len(text), start + 2 * length)):
        if _is_word(text[index]) and text[index] != "_":
            left, is_gap = left - 1, False
        elif is_gap or text[index] not in " \u00a0.-":
            return 0
        else:
            is_gap = True
        if left == 0:
            return index + 1
    return 0


_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-59]|[68]\d)\d{11}"  # Diners
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d|81\d\d|35[23456789]\d|220[0-4])\d{12,15}"  # Discover, UnionPay, JCB, Mir
    r"|(?:50|5[6-9]|60|6[1-9])\d{14,17}"  # Maestro, RuPay
)
_CARD_LAYOUTS = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (8, 8), (6, 13), (4, 12)}
)


def _find_cards(text: str, chains: list[list[Span]]) -> Iterator[Span]:
    for groups in chains:
        index = 0
        while index < len(groups):
            last = _card_end(text, groups, index)
            if last is not None:
                yield groups[index][0], groups[last][1]
            index = index + 1 if last is None else last + 1


def _card_end(text: str, groups: list[Span], first: int) -> int | None:
    """The last group of the card number that starts at group `first`, if one does; the longest wins."""
    found, layout, length = None, (), 0
    for last in range(first, len(groups)):
        layout += (groups[last][1] - groups[last][0],)
        length += layout[-1]
        if length > 19 or (first > 0 and len(layout) > 5):
            break
        is_whole = first == 0 and last == len(groups) - 1
        if length < 13 or not (is_whole or len(layout) == 1 or layout in _CARD_LAYOUTS):
            continue
        number = _digits(text, groups[first : last + 1])
        if (
            _ISSUERS.fullmatch(number)
            and luhn.is_valid(number)
            and not _is_cut_off(text, groups[first][0], groups[last][1])
        ):
            found = last
    return found


_PHONE_WORDS = (
    r"(?:(?:tele|cell|i)?phones?|tel|telefon(?:nummer)?|tele?fono|teléfono|téléphone|telefone|mobiles?|mobil(?:nummer)?"
    r"|móvil|handy(?:nummer)?|rufnummer|cell|fax|whats ?app|sms|dial|celular|телефон|тел"
    r"|my (?:(?:new|work|home|personal|private) )?number|(?:call|text|ring|reach)(?: (?:me|us|him|her|them|back))?)"
    r"|電話|电话|手机|携帯|전화"
)
_PHONE_BEFORE = re.compile(
    rf"(?:(?<![A-Za-z\[]){_PHONE_WORDS})(?:['’]?s)?"
    r"(?:[\s:;=,.#()\"'–-]{0,3}\b(?:numbers?|no|nr|num|is|at|on|me|us|under|via|unter|ist|lautet|auf|est|es|al|au|to"
    r"|direct|line|home|work|mobile)\b){0,4}[\s:;：=,.#+(\"'–-]{0,4}\Z",
    re.IGNORECASE,
)
_PHONE_AFTER = re.compile(
    r"\)?\s{0,2}(?:is|'s|’s) (?:my|our|his|her|their) (?:(?:new|work|home|personal|cell|mobile) )?"
    r"(?:phone|cell|mobile|number|tel)\b|\)?\s?\((?:cell|mobile|home|work|office|mob|m|c|h|w|o)\)",
    re.IGNORECASE,
)
_COMPACT_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_TRUNK_REGIONS = ("GB", "DE", "FR", "IT", "NL", "AU", "CH", "AT", "BE", "SE", "JP", "IN")
_EXTENSION = re.compile(r",?\s?(?:x|ext\.?|extension)\s?\d{1,6}\b", re.IGNORECASE)
_ZIP_PLUS_4 = re.compile(r"\d{5}-\d{4}")
_DRAMA_MOBILE = re.compile(r"07\d{9}")


class _PhoneChecks:
    """Look-ups in libphonenumber's metadata for one text, and how many of them are left."""

    def __init__(self) -> None:
        self.left = MAX_PHONE_CHECKS

    def is_valid(self, number: str, region: str | None) -> bool:
        """Whether the region (None: the number names it) assigns such numbers; True with none left."""
        if self.left <= 0:
            return True
        self.left -= 1
        parsed = _parse_phone(number, region)
        return parsed is not None and phonenumbers.is_valid_number(parsed)

    def is_possible(self, number: str) -> bool:
        """Whether an international number has a length its country uses; True with none left."""
        if self.left <= 0:
            return True
        parsed = _parse_phone(number, None)
        return parsed is not None and phonenumbers.is_possible_number(parsed)


def _parse_phone(number: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None


def _find_phones(text: str, chains: list[list[Span]]) -> Iterator[Span]:
    checks = _PhoneChecks()
    for groups in chains:
        index, is_inside = 0, False
        while index < len(groups):
            last = _phone_end(text, groups, index, is_inside, checks)
            if last is not None:
                yield _phone_span(text, groups[index][0], groups[last][1])
            is_inside = last is None and _is_id_part(text, groups[index])
            index = index + 1 if last is None else last + 1


def _is_id_part(text: str, group: Span) -> bool:
    """Whether a group of digits is a step of a path, or so long that the next group goes on with it."""
    start, end = group
    if text[end : end + 1] == "/":
        return True
    return end - start >= 3 and not (end - start == 4 and text[start : start + 2] in ("19", "20"))


def _phone_span(text: str, start: int, end: int) -> Span:
    """start..end with the plus and brackets before it and the extension after it."""
    if start and text[start - 1] == "(" and ")" in text[start:end]:
        start -= 1
    if start and text[start - 1] in "+＋":
        start -= 1
    if start and text[start - 1] == "(" and ")" in text[start:end] and "(" not in text[start:end]:
        start -= 1
    extension = _EXTENSION.match(text, end)
    return start, extension.end() if extension else end


def _phone_end(text: str, groups: list[Span], first: int, is_inside: bool, checks: _PhoneChecks) -> int | None:
    """The last group of the phone number that starts at group `first`, if one does; `is_inside` says that
    the groups before it may be the beginning of the same number."""
    start = groups[first][0]
    if start and _is_word(text[start - 1]):
        return None
    lead = text[max(0, start - 3) : start].rstrip("(")
    if lead[-1:] in ("+", "＋") and not _is_word(lead[-2:-1] or " "):
        return _international_end(text, groups, first, checks)
    last = None
    if text[start : start + 2] == "00" and text[start + 2 : start + 3] not in ("", "0"):
        last = _prefixed_end(text, groups, first, checks)
    if last is None and not (is_inside and text[start] == "0"):
        last = _national_end(text, groups, first, checks)
    return _named_end(text, groups, first) if last is None else last


def _windows(
    text: str, groups: list[Span], first: int, least: int, most: int, most_groups: int = 16
) -> Iterator[tuple[int, str]]:
    """The numbers of `least` to `most` digits that start at group `first`, longest first, as (last, digits)."""
    found: list[tuple[int, str]] = []
    number = ""
    for last in range(first, min(len(groups), first + most_groups)):
        number += _digits(text, [groups[last]])
        if len(number) > most:
            break
        end = groups[last][1]
        if len(number) >= least and not (end < len(text) and _is_word(text[end])):
            found.append((last, number))
    return reversed(found)


def _international_end(text: str, groups: list[Span], first: int, checks: _PhoneChecks) -> int | None:
    """As _phone_end, after a plus: a number its country assigns, or a formatted one of a length it uses."""
    possible = None
    start = groups[first][0]
    for last, digits in _windows(text, groups, first, 7, 16):
        if "(0)" in text[start : groups[last][1]]:
            number = "+" + _digits(text, [g for g in groups[first : last + 1] if text[g[0] - 1 : g[1] + 1] != "(0)"])
        else:
            number = "+" + digits
        if checks.is_valid(number, None):
            return last
        is_formatted = last > first or _is_named_before(text, start)
        if possible is None and is_formatted and checks.is_possible(number):
            possible = last
    return possible


def _prefixed_end(text: str, groups: list[Span], first: int, checks: _PhoneChecks) -> int | None:
    """As _phone_end, for a number that starts with 00 and its country."""
    for last, digits in _windows(text, groups, first, 10, 17):
        if checks.is_valid("+" + digits[2:], None):
            return last
    return None


def _is_part_of_code(text: str, start: int, end: int) -> bool:
    """Whether a number is glued to something that makes it an id, an amount or a fraction."""
    before = text[start - 1 : start].rstrip("(") if start else ""
    after, next_after = text[end : end + 1], text[end + 1 : end + 2]
    if (before and before in "-–_#$€£¥\\@.") or (before == ":" and text[start - 2 : start - 1].isdigit()):
        return True
    return bool(next_after) and ((after == "-" and _is_word(next_after)) or (after == "." and next_after.isdigit()))


def _national_end(text: str, groups: list[Span], first: int, checks: _PhoneChecks) -> int | None:
    """As _phone_end, for a number formatted as one: `(202) 555-0143`, `020 7946 0958`, `138 1234 5678`."""
    start = groups[first][0]
    for last, digits in _windows(text, groups, first, 9, 13, most_groups=6):
        end = groups[last][1]
        is_path = text.count("/", start, end) > 1 or (first == 0 and text[start - 1 : start] == "/")
        if last == first or is_path or _is_part_of_code(text, start, end):
            continue
        layout = tuple(stop - begin for begin, stop in groups[first : last + 1])
        has_area = text[start - 1 : start] == "(" and text[groups[first][1] : groups[first][1] + 1] == ")"
        if _is_national(text[start:end], digits, layout, has_area, checks):
            return last
    return None


def _is_national(written: str, digits: str, layout: tuple[int, ...], has_area: bool, checks: _PhoneChecks) -> bool:
    if layout in ((3, 3, 4), (1, 3, 3, 4)) or (has_area and layout == (3, 7)):
        if len(digits) == 11 and digits[0] != "1":
            return False
        number = digits[-10:]
        if number[0] in "01":
            return number[0] == "0" and _is_trunk(digits, checks)
        is_punctuated = written[-5] in "-.‐‑–" and written[-6].isdigit()
        return is_punctuated or has_area or number[:3] == "555" or checks.is_valid(number, "US")
    if digits[0] == "0" and digits[1] != "0" and layout[0] > 1 and layout[-1] > 1:
        return not _ZIP_PLUS_4.fullmatch(written) and _is_trunk(digits, checks)
    if layout == (3, 4, 4) and digits[0] == "1":
        return checks.is_valid(digits, "CN")
    return has_area and layout in ((2, 5, 4), (2, 4, 4)) and checks.is_valid(digits, "BR")


def _is_trunk(digits: str, checks: _PhoneChecks) -> bool:
    """Whether a number with a leading 0 is assigned in a country that writes them so."""
    if _DRAMA_MOBILE.fullmatch(digits):
        return True
    return any(checks.is_valid(digits, region) for region in _TRUNK_REGIONS)


def _named_end(text: str, groups: list[Span], first: int) -> int | None:
    """As _phone_end, for any number of 7 to 15 digits beside a word such as "phone" or "call me"."""
    # Inside a chain there are only digits and punctuation beside a group, never a word.
    if first > 0 and len(groups) - first > 16:
        return None
    is_named = first == 0 and _is_named_before(text, groups[first][0])
    for last, digits in _windows(text, groups, first, 7, 15):
        is_date = len(digits) == 8 and _COMPACT_DATE.fullmatch(digits)
        if not is_date and (is_named or (last == len(groups) - 1 and _PHONE_AFTER.match(text, groups[last][1]))):
            return last
    return None


def _is_named_before(text: str, start: int) -> bool:
    return _PHONE_BEFORE.search(text[max(0, start - 48) : start]) is not None
