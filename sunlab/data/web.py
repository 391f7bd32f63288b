"""Objects of HTTP servers, read forward by the standard library's client: fsspec's takes 0.2 s to import."""

from base64 import b64encode
from functools import cache
from http.client import HTTPResponse
from ssl import create_default_context
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

LEGAL = "%/:=&?~#+!$,;'@()*[]"  # characters of a URL beside letters, digits and "_.-" that are sent as they are


def open_http(url: str, position: int, timeout: float) -> HTTPResponse:
    """The response to one request for the bytes of an object from `position` on (status 206, or 200 with all bytes where the
    server has no ranges). A name and password in the URL are sent as basic authentication, to its own host alone.

    Args:
        timeout: seconds for a connection, and without a byte.

    Raises:
        FileNotFoundError: there is no such object.
        OSError: the server cannot be reached, or answers with an error (`HTTPError`, with its `status`).
    """
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = Request(quote(parts._replace(netloc=host).geturl(), LEGAL), headers={"Accept-Encoding": "identity"})
    if user:
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(user).encode()).decode()}")
    if position:
        request.add_header("Range", f"bytes={position}-")
    try:
        response: HTTPResponse = _opener(parts.scheme == "https").open(request, timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == 404:
            raise FileNotFoundError(url) from None
        raise
    return response


@cache
def _opener(secure: bool) -> OpenerDirector:
    """Follows redirects to HTTP and HTTPS alone, not to files or FTP."""
    opener = OpenerDirector()
    encrypted = HTTPSHandler(context=create_default_context()) if secure else HTTPSHandler()
    for handler in (ProxyHandler(), HTTPHandler(), encrypted, HTTPRedirectHandler()):
        opener.add_handler(handler)
    for further in (HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(further)
    return opener
