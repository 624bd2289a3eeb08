"""Text between two marker comments, replaced in place.

A block begins with `<!-- begin NAME -->` and ends with `<!-- end NAME -->`, each on a line of its own.
"""

import re

_BLOCK = re.compile(r"^<!-- begin (?P<name>\S+) -->$\n(?P<body>.*?)^<!-- end (?P=name) -->$", re.DOTALL | re.MULTILINE)


def fill(text: str, blocks: dict[str, str]) -> str:
    """Replace the contents of every block.

    Args:
        text: a page.
        blocks: name of each of its blocks -> new contents.

    Returns:
        The page with the new contents; everything outside the blocks is kept.

    Raises:
        ValueError: a block of the page is not among `blocks`, or one of these is not in the page exactly once.
    """
    names = [match["name"] for match in _BLOCK.finditer(text)]
    if sorted(names) != sorted(blocks):
        raise ValueError(f"the page has the blocks {sorted(names)}; expected are {sorted(blocks)}")

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- begin {name} -->\n{blocks[name].strip()}\n<!-- end {name} -->"

    return _BLOCK.sub(replace, text)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table.

    Args:
        header: titles of the columns.
        rows: cells; a `|` in one is escaped.
    """
    lines = [header, ["---"] * len(header), *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
