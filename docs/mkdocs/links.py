"""A hook of MkDocs: pages that lie elsewhere in the repository, and links that leave ``docs``.

A link is written for who reads the files of the repository; here it is turned to the page that the file became. A file
that has no page leaves the link's text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[2]
_PLUGINS = [path.parent.name for path in sorted(_ROOT.glob("plugins/*/README.md"))]
_ELSEWHERE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"} | {
    f"plugins/{name}/README.md": f"plugins/{name}.md" for name in _PLUGINS
}
_PAGES = _ELSEWHERE | {"README.md": "index.md", "distgnn/storage/protocols.py": "api/distgnn.md"}
_SOURCES = {page: path for path, page in _ELSEWHERE.items()}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, page in _ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(_ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page."""
    del config, files
    here = page.file.src_uri
    source = posixpath.dirname(_SOURCES.get(here, f"docs/{here}"))

    def turned(found: re.Match[str]) -> str:
        text, target, anchor = found.groups("")
        path = posixpath.normpath(posixpath.join(source, target))
        if path.startswith("docs/"):
            goal = path.removeprefix("docs/")
        elif path in _PAGES:
            goal = _PAGES[path]
        else:
            return text
        return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(here) or '.')}{anchor})"

    return _LINK.sub(turned, markdown)
