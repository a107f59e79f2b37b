"""The items of a job's `include`: what goes into the archive, each kind a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    Tag,
    ValidationInfo,
    field_validator,
)

from storeletd.items import SettingsModel, one_of, setting
from storeletd.values import (
    AbsolutePath,
    Command,
    DatabaseNames,
    FileName,
    MemberName,
    Pattern,
    Secret,
    Text,
    UserName,
)

__all__ = [
    "INCLUDE_KINDS",
    "SERVER_KINDS",
    "Include",
    "IncludeCommand",
    "IncludeDirectory",
    "IncludeFile",
    "IncludeMariadb",
    "IncludeMongodb",
    "IncludeMysql",
    "IncludeNewDir",
    "IncludePostgresql",
    "IncludeSqlite",
    "Server",
    "check_places",
]


class IncludeDirectory(SettingsModel):
    """Include what is in a directory."""

    directory: AbsolutePath = Field(description="Directory to include.", examples=["/srv/www"])
    name: MemberName | None = setting(
        "Directory of the archive to put it under; else it goes into the root.", "www"
    )
    preserve_paths: StrictBool = setting(
        "Keep the whole path, without the leading slash; beneath `name` where both are given.",
        True,
        default=False,
    )
    exclude: tuple[Pattern, ...] = setting(
        "Patterns as in a .gitignore in the directory: what they match stays out.",
        ["*.tmp", "cache/"],
        default=(),
    )
    exclude_caches: StrictBool = setting(
        "Leave out the content of directories marked by a valid CACHEDIR.TAG.", True, default=False
    )
    exclude_if_present: tuple[FileName, ...] = setting(
        "Leave out the content of directories that hold a file of one of these names.",
        [".nobackup"],
        default=(),
    )
    one_file_system: StrictBool = setting(
        "Leave out the content of other file systems mounted beneath.", True, default=False
    )


class IncludeFile(SettingsModel):
    """Include a single file."""

    file: AbsolutePath = Field(description="File to include.", examples=["/etc/fstab"])
    name: MemberName | None = setting(
        "Name in the archive, with a path if need be; else the file's own name.", "etc/fstab"
    )


class _Privileges(SettingsModel):
    """With whose rights a command runs."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "properties": {"privileged": {"const": True}},
                "required": ["privileged", "user"],
            }
        }
    )

    privileged: StrictBool = setting(
        "Keep the daemon's capability to read every file; left out, the command has only its"
        " user's rights. Not together with user.",
        False,
        default=False,
    )
    user: UserName | None = setting(
        "User to run the command as, whose a new directory is then; for that the daemon must be"
        " root, and such a user has no capabilities.",
        "postgres",
    )

    @field_validator("user")
    @classmethod
    def _check_user(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("privileged"):
            raise ValueError("expected either user or privileged")
        return value


class IncludeNewDir(_Privileges):
    """Include what a command puts into a new, temporary directory."""

    new_dir: MemberName = Field(
        description="Directory of the archive for what the command makes.", examples=["database"]
    )
    run: Command = Field(
        description="Command that fills the directory `{dir}`: a list of its arguments, or one text"
        " for a shell. It gets the job's environment, but no AWS_* variables.",
        examples=[["pg_dump", "--format=custom", "--file={dir}/site.dump", "site"]],
        repr=False,  # its words may be secrets
    )


class IncludeCommand(_Privileges):
    """Include what a command writes to its standard output."""

    command: Command = Field(
        description="Command whose standard output becomes a file of the archive, without one on"
        " the disk; else like `run`. Any status but 0 fails the run.",
        examples=[["docker", "exec", "shop", "pg_dump", "--format=custom", "shop"]],
        repr=False,  # its words may be secrets
    )
    name: MemberName = Field(description="Its name in the archive.", examples=["shop.dump"])


class _Server(SettingsModel):
    """Where a database server is; what is left out, its own tools know."""

    name: MemberName | None = setting(
        "Directory of the archive for the dumps; left out, the kind's own name.", "database"
    )
    options: tuple[Text, ...] = setting(
        "More options for what dumps, one by one.", ["--exclude-table=log"], default=(), repr=False
    )
    user: UserName | None = setting(
        "User of this machine to dump as, where the server knows people by that; for that the"
        " daemon must be root.",
        "postgres",
    )
    host: Text | None = setting(
        "Name of the server, or the directory or file of its socket.", "db.example.org"
    )
    port: Annotated[StrictInt, Field(ge=1, le=65_535)] | None = setting("Its port.", 5433)
    username: Text | None = setting("User of the database.", "backup")
    password: Secret | None = setting(
        "That user's password. No command line has it, nor an environment.",
        {"credential": "db-password"},
    )

    suffix: ClassVar[str]  # of a dump's name

    @property
    def kind(self) -> str:
        """The setting that says which databases."""
        (kind,) = SERVER_KINDS & self.model_fields_set
        return kind

    @property
    def databases(self) -> Sequence[str] | None:
        """The databases by their names; None: all."""
        names: str | tuple[str, ...] = getattr(self, self.kind)
        return None if names == "all" else (names,) if isinstance(names, str) else names

    @property
    def place(self) -> str:
        """The directory of the archive for the dumps."""
        return (self.name or self.kind).rstrip("/")

    def member(self, database: str | None) -> str:
        """Return the name of a dump in the archive; None: that of all databases in one."""
        name = ".all" if database is None else database.replace("%", "%25").replace("/", "%2F")
        return f"{self.place}/{name}{self.suffix}"

    def database_of(self, member: str) -> str | None:
        """Return the database whose dump has such a name, as far as `member` gives it one."""
        name = member.removeprefix(f"{self.place}/").removesuffix(self.suffix)
        database = name.replace("%2F", "/").replace("%25", "%")
        return database if self.member(database) == member else None


class IncludePostgresql(_Server):
    """Include databases of PostgreSQL, as pg_dump writes them in its custom format."""

    suffix: ClassVar[str] = ".dump"

    postgresql: DatabaseNames = Field(
        description="A database, a list of them, or all: then roles and tablespaces come too.",
        examples=["shop"],
    )


class IncludeMariadb(_Server):
    """Include databases of MariaDB, as mariadb-dump writes them in one transaction."""

    suffix: ClassVar[str] = ".sql"

    mariadb: DatabaseNames = Field(
        description="A database, a list of them, or all: then the server's users come too.",
        examples=["shop"],
    )


class IncludeMysql(_Server):
    """Include databases of MySQL, as mysqldump writes them in one transaction."""

    suffix: ClassVar[str] = ".sql"

    mysql: DatabaseNames = Field(
        description="A database, a list of them, or all.", examples=[["shop", "blog"]]
    )


class IncludeMongodb(_Server):
    """Include databases of MongoDB, as mongodump writes them."""

    suffix: ClassVar[str] = ".archive"

    mongodb: DatabaseNames = Field(
        description="A database, a list of them, or all of them in one dump.", examples=["all"]
    )


class IncludeSqlite(SettingsModel):
    """Include an SQLite database as it was at one moment, whoever writes to it."""

    sqlite: AbsolutePath = Field(
        description="File of the database.", examples=["/var/lib/shop/shop.db"]
    )
    name: MemberName | None = setting("Name in the archive; else the file's own name.", "shop.db")
    user: UserName | None = setting(
        "User of this machine to read it as; for that the daemon must be root.", "shop"
    )

    @property
    def place(self) -> str:
        """Its name in the archive."""
        return (self.name or os.path.basename(self.sqlite)).rstrip("/")


SERVER_KINDS = frozenset({"postgresql", "mariadb", "mysql", "mongodb"})
Server = IncludePostgresql | IncludeMariadb | IncludeMysql | IncludeMongodb
INCLUDE_KINDS: Mapping[str, type[BaseModel]] = {
    "directory": IncludeDirectory,
    "file": IncludeFile,
    "new_dir": IncludeNewDir,
    "command": IncludeCommand,
    "postgresql": IncludePostgresql,
    "mariadb": IncludeMariadb,
    "mysql": IncludeMysql,
    "sqlite": IncludeSqlite,
    "mongodb": IncludeMongodb,
}
Include = Annotated[
    Annotated[IncludeDirectory, Tag("IncludeDirectory")]
    | Annotated[IncludeFile, Tag("IncludeFile")]
    | Annotated[IncludeNewDir, Tag("IncludeNewDir")]
    | Annotated[IncludeCommand, Tag("IncludeCommand")]
    | Annotated[IncludePostgresql, Tag("IncludePostgresql")]
    | Annotated[IncludeMariadb, Tag("IncludeMariadb")]
    | Annotated[IncludeMysql, Tag("IncludeMysql")]
    | Annotated[IncludeSqlite, Tag("IncludeSqlite")]
    | Annotated[IncludeMongodb, Tag("IncludeMongodb")],
    one_of(INCLUDE_KINDS),
]


def check_places(value: tuple[Include, ...]) -> tuple[Include, ...]:
    """Hold databases to places of their own in the archive, by which they are found again."""
    places = [each.place for each in value if isinstance(each, Server | IncludeSqlite)]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"expected one item of databases for {place}: give another a name")
    return value
