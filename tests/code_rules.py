"""What source may not do, found in its syntax tree: read pickles, run code or shell lines that data chooses."""

from __future__ import annotations

import ast
from collections.abc import Iterator

MODULES = {"pickle", "_pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "pickletools", "imp"}
"""Not even imported."""
BUILTINS = {"eval", "exec", "compile", "__import__"}
LOADERS = {
    *(f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")),
    *(f"yaml.{name}" for name in ("Loader", "UnsafeLoader", "FullLoader", "CLoader", "CUnsafeLoader", "CFullLoader")),
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.serialization.load"),
    *("numpy.load", "numpy.fromregex", "numpy.lib.npyio.load", "pandas.read_pickle", "pandas.io.pickle.read_pickle"),
    *("importlib.import_module", "importlib.__import__", "importlib.util.spec_from_file_location", "pydoc.locate"),
    *("importlib.machinery.SourceFileLoader", "runpy.run_path", "runpy.run_module", "code.interact"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("transformers.dynamic_module_utils.get_class_from_dynamic_module",),
    *(f"builtins.{name}" for name in BUILTINS),
}
FROM_PRETRAINED = ("AutoConfig", "AutoTokenizer", "AutoModel")
"""Classes (and those that begin so) that would ask on the terminal whether to run a model's own code."""


def faults(source: str) -> list[str]:
    """Each place of the source that breaks a rule: "line: what"."""
    tree = ast.parse(source)
    return [f"{line}: {what}" for line, what in _faults(tree, _names(tree))]


def _names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for, in full."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _full(node: ast.AST, names: dict[str, str]) -> str:
    """The dotted name that an expression is, in full; empty if it is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        inner = _full(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    if isinstance(node, ast.Call) and _full(node.func, names) == "getattr" and len(node.args) > 1:
        name = node.args[1]
        return f"{_full(node.args[0], names)}.{name.value}" if isinstance(name, ast.Constant) else ""
    return ""


def _faults(tree: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            if module.split(".")[0] in MODULES:
                yield node.lineno, module
            for alias in node.names:
                if f"{module}.{alias.name}" in LOADERS or (alias.name == "*" and module != "__future__"):
                    yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Name | ast.Attribute):
            full = _full(node, names)
            if full in LOADERS or full in BUILTINS or full.startswith("__builtins__"):
                yield node.lineno, full
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _call(node, names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.removeprefix("python/").startswith(("!!python", "tag:yaml.org,2002:python")):
                yield node.lineno, node.value
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and not _is(value, False):
                    yield node.lineno, "trust_remote_code"


def _call(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    full = _full(node.func, names)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if full == "getattr" and len(node.args) > 1:
        built = _full(node, names)
        if built in LOADERS or built.split(".")[-1] in BUILTINS:
            yield built
        module = _full(node.args[0], names)
        if not built and module in names.values() and isinstance(node.args[0], ast.Name):
            yield f"getattr of {module} by a name that is not written out"
    if full in ("sys.modules.get", "globals", "locals"):
        yield full
    if "trust_remote_code" in keywords and not _is(keywords["trust_remote_code"], False):
        yield "trust_remote_code"
    if "shell" in keywords and not _is(keywords["shell"], False):
        yield "shell"
    if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
        yield "allow_pickle"
    if "weights_only" in keywords and not _is(keywords["weights_only"], True):
        yield "weights_only"
    owner, _, method = full.rpartition(".")
    if method == "from_pretrained" and owner.split(".")[-1].startswith(FROM_PRETRAINED):
        if "trust_remote_code" not in keywords:
            yield "from_pretrained without trust_remote_code=False"
        if owner.split(".")[-1].startswith("AutoModel") and not _is(keywords.get("use_safetensors"), True):
            yield "from_pretrained without use_safetensors=True"


def _is(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
