"""Measures the inference of foreign keys: drops those that databases declare, infers them again.

    python tests/bench/bench_keys.py --data ../shared/spider       its training databases alone
    python tests/bench/bench_keys.py --data DIR --show 50          and the wrong and missing keys
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.benchmarks.reader import Data                                    # noqa: E402
from data.schema import read_schema                                        # noqa: E402
from data.synthesis.keys import with_inferred_keys                         # noqa: E402


def folded(keys):
    return {tuple([part.lower() for part in key]) for key in keys}


def compare(path):
    """(declared keys, inferred ones, seconds) of a database, keys of several columns left out."""
    schema = read_schema(path)
    apart = {part for key in schema.composite for part in key}
    start = time.perf_counter()
    bare = replace(schema, foreign_keys=(), composite=())
    inferred = folded(with_inferred_keys(bare, path).foreign_keys)
    return (folded(set(schema.foreign_keys) - apart), inferred - folded(apart),
            time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=str(ROOT / "../shared/spider"))
    parser.add_argument("--show", type=int, default=0, help="wrong and missing keys to print")
    args = parser.parse_args()
    data = Data(args.data)
    total, right, made, slowest, lines = 0, 0, 0, 0.0, []
    ids = sorted({example.db_id for example in data.examples("train")})
    for db_id in ids:
        declared, inferred, seconds = compare(data.databases(db_id)[0])
        total, made, right = (total + len(declared), made + len(inferred),
                              right + len(declared & inferred))
        slowest = max(slowest, seconds)
        lines += [f"{db_id}: {what} {a}.{b} -> {c}.{d}" for what, keys in
                  (("wrong", inferred - declared), ("missing", declared - inferred))
                  for a, b, c, d in sorted(keys)]
    print("\n".join(sorted(lines, key=lambda line: "wrong" not in line)[:args.show]))
    print(f"{len(ids)} databases, {total} declared keys of one column, {made} inferred: "
          f"precision {100 * right / max(made, 1):.1f}, recall {100 * right / max(total, 1):.1f}; "
          f"the slowest took {slowest:.2f} s")


if __name__ == "__main__":
    main()
