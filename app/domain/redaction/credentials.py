"""Keys and tokens: by their vendors' public formats, or by the word they are assigned to."""

import re
from collections.abc import Callable, Iterator

from app.domain.redaction.spans import Span

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


TOKENS = tuple(_token(prefix, body) for prefix, body in _PREFIXES)
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


def find_keys(text: str) -> Iterator[Span]:
    for prefix, pattern in TOKENS:
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
