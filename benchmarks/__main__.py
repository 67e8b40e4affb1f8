"""Print all rows as a table, or with --json as JSON. It takes minutes.

With --keep they come to results/bench as well, from where `make tables` puts them into
docs/speed.md.
"""

import argparse
import json

from benchmarks import speed
from hpe_lib.workbook import environment, results

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
parser.add_argument("--keep", action="store_true")
parser.add_argument("--json", action="store_true")
asked = parser.parse_args()
rows = speed.table()
if asked.keep:
    results.write("bench", {"rows": rows.to_dict("records")}, environment.command())
if asked.json:
    print(json.dumps(rows.to_dict("records"), indent=2, ensure_ascii=False))
else:
    print(rows.round(2).to_string(index=False))
