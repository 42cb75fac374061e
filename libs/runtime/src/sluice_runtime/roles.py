"""Roles are files (W1): a new role is a new file, no code.

`roles/*.yaml` beside this module are shipped; a directory of one's own adds to them, and a file there replaces the
shipped role of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sluice_runtime.role import Role
from sluice_runtime.yaml_files import InvalidFile, load, shown, validate

SHIPPED_ROLES = Path(__file__).parent / "roles"
"""The directory of the roles that come with the project."""

ROLES_MAX_COUNT = 1_000
"""Roles of one installation: they are all kept in memory."""


def load_roles(directories: Iterable[Path] = ()) -> Mapping[str, Role]:
    """Reads the shipped roles and those of further directories, by name.

    Args:
        directories: Later ones win over earlier ones, and all over the shipped roles.

    Raises:
        InvalidFile: A directory is missing, or a file is no valid role; the message names file, place and value.
    """
    roles: dict[str, Role] = {}
    for directory in (SHIPPED_ROLES, *directories):
        if not directory.is_dir():
            raise InvalidFile(f"{directory}: no such directory; roles are files NAME.yaml in it")
        for path in sorted(directory.glob("*.yaml")):
            role = read_role(path)
            roles[role.name] = role
    if len(roles) > ROLES_MAX_COUNT:
        raise InvalidFile(f"{len(roles)} roles; at most {ROLES_MAX_COUNT} are kept")
    return roles


def read_role(path: Path) -> Role:
    """Reads one role.

    Raises:
        InvalidFile: The file is no valid role, or its name is not the file's.
    """
    role = validate(Role, load(path), str(path))
    if role.name != path.stem:
        raise InvalidFile(f"{path}: name: must be the file's, {shown(path.stem)}; it is {shown(role.name)}")
    return role


def queues_by_role(roles: Mapping[str, Role]) -> Mapping[str, str]:
    """Which queue each role's agents work on: all that a spawner needs to know."""
    return {name: role.queue for name, role in roles.items()}
