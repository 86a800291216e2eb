"""python -m data.synthesis --data DIR --out OUT: synthetic SQL for any folder, without a model."""

import argparse
import sys

from data.report.terminal import run_command
from data.synthesis.run import run_synth


def main():
    parser = argparse.ArgumentParser(
        prog="python -m data.synthesis", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Synthetic SQL for a benchmark folder or one's own databases (section 3.1.1).")
    parser.add_argument("--data", default="data/demo", help="a benchmark folder or databases")
    parser.add_argument("--out", default="runs/synth", help="folder for what is made")
    parser.add_argument("--n", type=int, default=3000, help="queries to make")
    parser.add_argument("--show", type=int, default=20, help="queries to print")
    parser.add_argument("--seed", type=int, default=0, help="the same again for the same seed")
    parser.add_argument("--split", default="train", help="on whose databases")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a query may run")
    parser.add_argument("--infer_keys", type=int, default=1, choices=(0, 1),
                        help="1 = own databases get the keys that nobody declared")
    args = parser.parse_args()

    def work():
        run_synth(args.data, args.out, args.n, args.show, args.seed, args.split, args.timeout,
                  infer_keys=args.infer_keys)

    return run_command("python -m data.synthesis", work)


if __name__ == "__main__":
    sys.exit(main())
