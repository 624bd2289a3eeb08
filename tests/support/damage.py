"""What happens to files."""

from pathlib import Path


def files(folder: Path) -> list[Path]:
    """All files under a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder: Path) -> Path:
    """The largest of them."""
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    """A bit in the middle is another."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The second half is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Nothing is left."""
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    """It holds something else."""
    path.write_bytes(b"\x00PNG of a cat\n" * 100)
