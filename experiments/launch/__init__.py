"""How a run is started on several hosts."""


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Arguments of a launcher, and behind `--` those of `dynamite-jax train`."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]
