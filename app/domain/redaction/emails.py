"""E-mail addresses."""

import re
from collections.abc import Iterator

from app.domain.redaction.spans import Span

_LOCAL = re.compile(r"[A-Za-z0-9À-ɏ_.+%'-]{1,64}\Z")
_LOCAL_ANY = re.compile(r"[\w.+%'-]{1,64}\Z")
_DOMAIN = re.compile(r"(?:[^\W_][\w-]{0,62}\.){1,8}(?:[A-Za-z]{2,24}(?![A-Za-z0-9_-])|[^\W\d_]{2,24})")
_RETINA = re.compile(r"[1-9]x\.(?:png|jpe?g|gif|webp|svg|avif)\b")
_COMMON_TLDS = frozenset({"com", "org", "net", "edu", "gov", "info", "biz", "dev", "app"})


def find_emails(text: str) -> Iterator[Span]:
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
