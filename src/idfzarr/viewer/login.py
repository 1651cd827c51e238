"""A login page of our own: it asks nothing of the network and carries the XSRF token.

Panel's own one loads its logo from a content delivery network, and its form lacks the token, so
that with XSRF cookies on every login would be refused.
"""

from __future__ import annotations

import hmac
from html import escape
from typing import TYPE_CHECKING, Any

from panel.auth import BasicAuthProvider, BasicLoginHandler

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["login_provider"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>idfzarr: log in</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; height: 90vh; }}
form {{ display: grid; gap: 0.8rem; width: 18rem; }}
h1 {{ font-size: 1.2rem; margin: 0; }}
input, button {{ font: inherit; padding: 0.4rem 0.6rem; width: 100%; box-sizing: border-box; }}
p {{ color: #b3261e; margin: 0; min-height: 1.5em; }}
</style>
</head>
<body>
<form method="post" action=".{endpoint}">
<h1>idfzarr</h1>
<p role="alert">{error}</p>
<label>User <input name="username" autocomplete="username" autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password"></label>
{token}
<button type="submit">Log in</button>
</form>
</body>
</html>
"""


def login_provider(
    users: str | Mapping[str, str], *, log_in: str = "/login", log_out: str = "/logout"
) -> Any:
    """Return what asks for a user and a password.

    Parameters
    ----------
    users
        One password for every name, or a password for each name.
    log_in, log_out
        Paths of the two pages.

    Returns
    -------
    AuthProvider
        For a Bokeh server.
    """

    class Login(BasicLoginHandler):  # type: ignore[misc, unused-ignore]
        """Asks, and compares in constant time."""

        def get(self) -> None:
            self.write(
                _PAGE.format(
                    endpoint=escape(log_in),
                    error="Unknown user or wrong password."
                    if self.get_argument("error", "")
                    else "",
                    token=self.xsrf_form_html(),
                )
            )

        def _validate(self, username: str, password: str) -> bool:
            right = users if isinstance(users, str) else users.get(username)
            # Compared even where there is no such user: the time taken must not tell.
            same = hmac.compare_digest(password.encode(), (right or "").encode())
            return same and bool(right)

    class Provider(BasicAuthProvider):  # type: ignore[misc, unused-ignore]
        """Uses the page above."""

        @property
        def login_handler(self) -> type[Login]:
            return Login

    return Provider(login_endpoint=log_in, logout_endpoint=log_out)  # type: ignore[no-untyped-call]
