"""Errors of the local stack, named by what the caller does next.

```
LocalStackError
├── SettingInvalid         correct the argument, the setting or the file it names
├── DirectoryInUse         stop the other stack, or take another data directory
├── DownloadFailed         try again: what was downloaded whole is kept
│   └── ChecksumMismatch   find out what the registry served: the file has been removed
├── StartFailed            read the log it names
│   └── NotReady           wait longer, or read the log it names
├── LoginRefused           correct the user name or the password
└── ProvisioningFailed     change the table or the cluster: they cannot be brought together
```
"""

from __future__ import annotations


class LocalStackError(Exception):
    """Base of this package's errors. The text names the thing, its value, and the next step."""


class SettingInvalid(LocalStackError):
    """An argument, a setting or a file of the data directory is wrong: correct it."""


class DirectoryInUse(LocalStackError):
    """Another running stack holds the data directory: stop it, or take another directory."""


class DownloadFailed(LocalStackError):
    """A file could not be downloaded: try again, finished files are kept."""


class ChecksumMismatch(DownloadFailed):
    """A downloaded file is not the one of the lock file. It has been removed and nothing was run from it."""


class StartFailed(LocalStackError):
    """A process did not start, or ended while it started: the text names its log."""


class NotReady(StartFailed):
    """A process runs but was not ready in time: the text names its log."""


class LoginRefused(LocalStackError):
    """Kafka was reached and refused the user name or the password."""


class ProvisioningFailed(LocalStackError):
    """A topic, user or ACL could not be made as the table says."""
