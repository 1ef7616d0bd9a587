"""Which URLs of servers are taken as they stand.

A password with one of URL's own characters in it moves the rest of itself into the path, the query or the fragment,
from where it would be shown. Such URLs are refused, in words that do not repeat them.
"""

from __future__ import annotations

from urllib.parse import urlsplit

FIX = "percent-encode the password: %40 for @, %23 for #, %2F for /, %3F for ?, and leave out query and fragment"


def fault(url: str) -> str | None:
    """What is wrong with a base URL, without a part of it; None where its login, if any, is told from the rest."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its words repeat the URL
        return "its host or port cannot be read"
    if "?" in url or "#" in url:
        return "it has a query or a fragment"
    if "@" in url.replace(parts.netloc, "", 1):
        return "it has an @ that is not before the host"
    return None


def checked(url: str) -> str:
    """The URL. Raises ValueError where it has a fault."""
    if found := fault(url):
        raise ValueError(f"not a base URL: {found}; {FIX}")
    return url
