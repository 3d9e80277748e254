"""The operator table (graph/ops.def) against ONNX's own schemas: versions, and the attributes' names, kinds and opsets.

usage: schemas.py OPS_DEF
"""
import re
import sys

from onnx import defs

DOMAINS = ("", "ai.onnx.preview.training")
INTERNAL = {("Gradient", "nx"), ("Gradient", "nz")}  # passes/training_gradient.c writes these
KIND = {"FLOAT": "f", "INT": "i", "STRING": "s", "TENSOR": "t", "GRAPH": "g", "FLOATS": "F", "INTS": "I",
        "STRINGS": "S", "TYPE_PROTO": "p", "SPARSE_TENSOR": "x"}


def rows(path):
    """(domain, name) -> (versions, {(attribute, kind): (required, since, before)})"""
    table = {}
    text = open(path).read()
    for row in re.findall(r"^OP\(.*?(?=^OP\(|^/\*|\Z)", text, re.M | re.S):
        strings = re.findall(r'"((?:[^"]*"\s*\n\s*")*[^"]*)"', row)
        joined = [re.sub(r'"\s*\n\s*"', "", s) for s in strings]
        name, domain, versions, attributes = joined[0], joined[1], joined[2], joined[-1]
        found = {}
        for entry in attributes.split() if len(joined) > 3 else []:
            m = re.fullmatch(r"(\w+):(\w)(\([^)]*\))?(!?)(?:@(\d+))?(?:<(\d+))?", entry)
            assert m, f"{name}: {entry} cannot be read"
            found[m[1], m[2]] = (bool(m[4]), int(m[5] or 0), int(m[6] or 0))
        table[domain, name] = ([int(v) for v in versions.split()], found)
    return table


def schemas():
    """The same from the onnx package."""
    history = {}
    for s in defs.get_all_schemas_with_history():
        if s.domain in DOMAINS:
            history.setdefault((s.domain, s.name), {})[s.since_version] = s
    table = {}
    for key, by_version in history.items():
        versions = sorted(by_version)
        found = {}
        for v in versions:
            for a in by_version[v].attributes.values():
                kind = KIND[a.type.name]
                since = found.get((a.name, kind), (0, 0 if v == versions[0] else v, 0))[1]
                later = [w for w in versions if w > v]
                found[a.name, kind] = (a.required, since, later[0] if later else 0)
        table[key] = (versions, found, by_version[versions[-1]].deprecated)
    return table


def main():
    ours, wrong = rows(sys.argv[1]), []
    for key, (versions, attributes, deprecated) in sorted(schemas().items()):
        name = key[1]
        if key not in ours:
            if not deprecated:
                wrong.append(f"{name}: no row")
            continue
        if ours[key][0] != versions:
            wrong.append(f"{name}: versions {ours[key][0]}, ONNX says {versions}")
        mine = {k: v for k, v in ours[key][1].items() if (name, k[0]) not in INTERNAL}
        for k in sorted(set(mine) | set(attributes)):
            a, b = mine.get(k), attributes.get(k)
            if a is None or b is None or (a[1:] != b[1:]) or (a[0] != b[0] and name != "Gradient"):
                wrong.append(f"{name}.{k[0]}:{k[1]}: {a}, ONNX says {b} (required, since, before)")
    print("\n".join(wrong))
    print(f"schemas: {len(ours)} rows, opset {defs.onnx_opset_version()}, {len(wrong)} differ from ONNX's")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
