"""A bare machine: Python, make, a compiler and git, and no program that a test may not need."""

import os
from pathlib import Path

HIDDEN = (
    *("rsync", "scp", "ssh", "ssh-keygen", "sshd"),
    *("chrome", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    *("createdb", "initdb", "pg_ctl", "postgres", "psql"),
    *("curl", "docker", "wget"),
)
"""Programs that `make test` must not need; tests that do have a marker, or look for them
elsewhere and skip with a reason (PostgreSQL, in Debian's folder)."""


def hide_programs(folder: Path) -> None:
    """Take `HIDDEN` out of the PATH of this process, and the user's name out of git.

    A folder of the PATH that holds one of them is replaced by a folder of links to all others.
    """
    folder.chmod(0o755)  # for programs that run as other users
    places = []
    for number, place in enumerate(os.environ["PATH"].split(os.pathsep)):
        if not any(Path(place, name).exists() for name in HIDDEN):
            places.append(place)
            continue
        links = folder / str(number)
        links.mkdir()
        for program in Path(place).iterdir():
            if program.name not in HIDDEN:
                (links / program.name).symlink_to(program)
        places.append(str(links))
    config = folder / "gitconfig"
    config.write_text("[safe]\ndirectory = *\n[user]\nuseConfigOnly = true\n")
    os.environ["PATH"] = os.pathsep.join(places)
    os.environ |= {"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_SYSTEM": os.devnull}
