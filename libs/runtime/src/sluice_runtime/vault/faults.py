"""How Vault may fail, by what the caller does next. No message holds a token.

```
VaultFault
├── VaultAway        ask again later: it is away, sealed, slow, has too much to do, or we can't log in now
├── VaultRefused     do not just repeat it: a right, a role, a key or the request must change first
│   └── NothingThere     there is nothing at the path
└── TokenUnknown     the token that was asked with, or about, is none, or none any more
```
"""

from __future__ import annotations


class VaultFault(Exception):
    """Base of what a call of Vault can raise: it names the path and Vault's own words."""


class VaultAway(VaultFault):
    """Vault can't answer now. Whether what was asked for happened is unknown."""


class VaultRefused(VaultFault):
    """Vault answers, and refuses. What was asked for did not happen."""


class NothingThere(VaultRefused):
    """There is nothing at the path."""


class TokenUnknown(VaultFault):
    """Vault does not know the token that was asked with, or about: it was revoked, or its time is over."""
