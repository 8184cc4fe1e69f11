"""The house rules of `architecture.md`, held by reading the imports: data goes right, imports go down.

An import under `TYPE_CHECKING` or inside a function counts as any other: who needs a type knows of its module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tbgw

ROOT = Path(tbgw.__file__).parent

PURE = frozenset({"model", "expressions", "metrics", "errors"})
"""They import only each other."""

ROOMS = frozenset({"connectors", "pipeline", "spool", "uplink", "sandbox", "web"})
"""They never import each other."""

LOW = PURE | {"interfaces", "internal_events", "thingsboard", "mqtt", "ocpp", "tls", "version", "files"}
"""What the six rooms may import, besides the part of `config` that only describes sections."""

ALLOWED: dict[str, frozenset[str]] = {
    **dict.fromkeys(PURE, PURE),
    **dict.fromkeys(ROOMS, LOW | {"config.schema"}),
    "version": frozenset(),
    "mqtt": frozenset(),
    "ocpp": frozenset(),
    "logs": frozenset(),
    "tls": frozenset({"errors"}),
    "interfaces": PURE,
    "internal_events": PURE,
    "thingsboard": PURE,
    "config": PURE,
    "files": frozenset(),
    "process": frozenset(),
    "configfolder": PURE | {"files"},
    "reconfiguration": LOW | {"config", "configfolder", "uplink"},
    "management": LOW | ROOMS | {"config", "configfolder", "reconfiguration"},
    "link": LOW | {"config", "uplink"},
    "service": LOW | ROOMS | {"config", "link", "logs", "configfolder", "management", "process"},
    "tap": LOW | ROOMS | {"config", "configfolder", "link", "logs", "process", "service"},
    "cli": LOW | ROOMS | {"config", "link", "logs", "service", "tap"},
}
"""What each top-level part of tbgw may import, besides itself."""


def python_files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = ["tbgw", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything that is imported anywhere in the source, with `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module of tbgw) of what a file imports, without the names that are taken from the module."""
    for line, name in imported(path.read_text(), module_name(path), path.name == "__init__.py"):
        if name != "tbgw" and not name.startswith("tbgw."):
            continue
        while not (ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py").exists() or is_package(name)):
            name = name.rpartition(".")[0]
        yield line, name


def is_package(name: str) -> bool:
    return ROOT.joinpath(*name.split(".")[1:], "__init__.py").exists()


def part_of(module: str) -> str:
    """The top-level part that a module belongs to; empty for `tbgw` itself."""
    return module.split(".")[1] if "." in module else ""


def described_sections() -> set[str]:
    """`tbgw.config.schema` and what it needs of `config`, directly or not."""
    found: set[str] = set()
    waiting = ["tbgw.config.schema"]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        waiting += [name for _, name in imported_modules(path) if part_of(name) == "config"] if path.exists() else []
    return found


def is_allowed(importer: str, module: str, schema: set[str]) -> bool:
    """Whether a module may import another one of tbgw."""
    own, other = part_of(importer), part_of(module)
    if not other or own == other or not own:
        return not other or own == other
    allowed = ALLOWED[own]
    return other in allowed or ("config.schema" in allowed and module in schema)


def import_time_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """All statements that run when a module is imported, those in classes and branches included."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.stmt):
            yield node
        waiting += ast.iter_child_nodes(node)


def takes_reactor(source: str) -> list[int]:
    """Lines on which a module takes the global reactor as it is imported."""
    lines = []
    for node in import_time_statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        else:
            continue
        if "twisted.internet.reactor" in names:
            lines.append(node.lineno)
    return lines


class LayerTests(SynchronousTestCase):
    """The rules."""

    def test_every_part_has_its_rule(self):
        """A new top-level part has to be given its place here, and in `architecture.md`."""
        parts = {part_of(module_name(path)) for path in python_files()} - {""}
        self.assertEqual(parts - set(ALLOWED), set())

    def test_imports_go_down(self):
        """Nobody imports what is above or beside: see the table."""
        schema = described_sections()
        wrong = [
            f"{path.relative_to(ROOT.parent)}:{line} imports {module}"
            for path in python_files()
            for line, module in imported_modules(path)
            if not is_allowed(module_name(path), module, schema)
        ]
        self.assertEqual(wrong, [])

    def test_described_sections_are_pure(self):
        """What rooms may see of `config` neither loads files nor knows other parts' sections."""
        schema = described_sections()
        self.assertNotIn("tbgw.config.loader", schema)
        self.assertNotIn("tbgw.config.gateway", schema)

    def test_libraries_know_nothing_of_the_gateway(self):
        """`mqtt` and `ocpp` import nothing of tbgw but themselves."""
        for path in python_files():
            own = part_of(module_name(path))
            if own in ("mqtt", "ocpp"):
                self.assertEqual({part_of(name) for _, name in imported_modules(path)} - {own}, set(), path)

    def test_no_global_reactor(self):
        """Only `tap` takes the global reactor when it is imported; everyone else is given one."""
        for path in python_files():
            if module_name(path) != "tbgw.tap":
                self.assertEqual(takes_reactor(path.read_text()), [], path)

    def test_plugin(self):
        """twistd reads all plugins at every start of anything: ours imports nothing of tbgw, and no reactor."""
        plugins = sorted((ROOT.parent / "twisted" / "plugins").glob("*.py"))
        self.assertTrue(plugins)
        for path in plugins:
            names = [name for _, name in imported(path.read_text(), "twisted.plugins.x")]
            self.assertEqual([name for name in names if name.split(".")[0] == "tbgw"], [])
            self.assertEqual(takes_reactor(path.read_text()), [])


class CheckTests(SynchronousTestCase):
    """The checks themselves can fail."""

    def test_imported(self):
        """Every way to import is seen, wherever it stands."""
        source = """
import a.b, c
from d import e as f, g
if TYPE_CHECKING:
    from h.i import j
def late():
    import k
    from . import l
    from ..m import n
"""
        names = [name for _, name in imported(source, "tbgw.spool.store")]
        self.assertEqual(sorted(names), ["a.b", "c", "d.e", "d.g", "h.i.j", "k", "tbgw.m.n", "tbgw.spool.l"])
        self.assertEqual([name for _, name in imported("from . import x", "tbgw.mqtt", True)], ["tbgw.mqtt.x"])

    def test_is_allowed(self):
        """The table says no where it should."""
        schema = {"tbgw.config.schema", "tbgw.config.document"}
        for importer, module in (
            ("tbgw.pipeline.ingest", "tbgw.spool.service"),
            ("tbgw.spool.store", "tbgw.service"),
            ("tbgw.uplink.client", "tbgw.config.loader"),
            ("tbgw.mqtt.codec", "tbgw.errors"),
            ("tbgw.model", "tbgw.interfaces"),
            ("tbgw.tls", "tbgw.model"),
            ("tbgw.config.loader", "tbgw.connectors.parsers"),
            ("tbgw.service", "tbgw.cli.main"),
            ("tbgw", "tbgw.model"),
        ):
            self.assertFalse(is_allowed(importer, module, schema), (importer, module))
        for importer, module in (
            ("tbgw.pipeline.ingest", "tbgw.pipeline.packer"),
            ("tbgw.connectors.socket.config", "tbgw.config.document"),
            ("tbgw.uplink.client", "tbgw.mqtt"),
            ("tbgw.service", "tbgw.web.site"),
        ):
            self.assertTrue(is_allowed(importer, module, schema), (importer, module))

    def test_takes_reactor(self):
        """Every way to take the reactor at import is seen, and taking it in a function is not."""
        for source in (
            "from twisted.internet import reactor",
            "from twisted.internet import defer, reactor as r",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
            "if True:\n  try:\n    from twisted.internet import reactor\n  except ImportError: pass",
            "class A:\n  from twisted.internet import reactor",
        ):
            self.assertEqual(len(takes_reactor(source)), 1, source)
        self.assertEqual(takes_reactor("def f():\n  from twisted.internet import reactor"), [])
        self.assertEqual(takes_reactor("from twisted.internet import defer"), [])
