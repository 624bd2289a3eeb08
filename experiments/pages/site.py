"""The site: docs/ and the files that its pages refer to, built by Zensical into build/site.

python -m experiments.pages.site

Pages refer to files outside of docs/ (pictures and JSON in results/, the changelog) by the paths that hold in the
repository. They are copied beside the pages, and the paths follow.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = Path("build/docs")
SITE = Path("build/site")

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\s\"'>]+")


def links(text: str) -> list[str]:
    """Targets of the relative links and pictures of a page, without their anchors; code is passed over.

    Args:
        text: Markdown.
    """
    return [match["target"] for match in _LINK.finditer(without_code(text))]


def without_code(text: str) -> str:
    """Markdown with its code blanked."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "", text)


def broken(page: Path) -> list[str]:
    """Relative links of a page to files that don't exist.

    Args:
        page: a Markdown file.
    """
    return [target for target in links(page.read_text()) if not (page.parent / target).exists()]


def assemble(root: Path, target: Path) -> None:
    """Copy the pages of docs/, and the files outside of it that they refer to, pages among these likewise.

    Args:
        root: of the repository.
        target: folder that becomes the source of the site; its former contents are removed.

    Raises:
        FileNotFoundError: a page refers to a file that doesn't exist.
    """
    docs = root / "docs"
    shutil.rmtree(target, ignore_errors=True)
    pending = sorted(path for path in docs.rglob("*") if path.is_file())
    copies: dict[Path, Path] = {}
    while pending:
        file = pending.pop()
        if file in copies:
            continue
        copies[file] = copy = target / file.relative_to(docs if file.is_relative_to(docs) else root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".md":
            shutil.copy2(file, copy)
            continue
        if missing := broken(file):
            raise FileNotFoundError(f"{file.relative_to(root)} refers to what is not there: {', '.join(missing)}")
        pending += [(file.parent / link).resolve() for link in links(file.read_text())]
    for page, copy in copies.items():
        if page.suffix == ".md":
            copy.write_text(_redirected(page, copies))


def _redirected(page: Path, copies: dict[Path, Path]) -> str:
    """The text of a page, with its relative links changed to those between the copies."""

    def redirect(match: re.Match[str]) -> str:
        copy = copies.get((page.parent / match["target"]).resolve())
        if copy is None:  # in code
            return match[0]
        return os.path.relpath(copy, copies[page].parent).replace(os.sep, "/") + (match["anchor"] or "")

    return _LINK.sub(redirect, page.read_text())


def foreign(site: Path) -> list[str]:
    """What pages of the built site load from other hosts, as `PAGE: TAG`.

    Args:
        site: folder of the site.
    """
    pages = sorted(site.rglob("*.html"))
    return [f"{page.relative_to(site)}: {match[0]}" for page in pages for match in _LOADED.finditer(page.read_text())]


def main() -> None:
    """Assemble, build strictly, check."""
    assemble(ROOT, ROOT / SOURCE)
    program = Path(sys.executable).with_name("zensical")
    build = subprocess.run([program, "build", "--clean", "--strict"], cwd=ROOT, check=False)
    if build.returncode:
        raise SystemExit(build.returncode)
    if loaded := foreign(ROOT / SITE):
        raise SystemExit("error: pages load from other hosts: " + "; ".join(loaded))
    print(f"site in {SITE}/, start at {SITE}/index.html")


if __name__ == "__main__":
    main()
