"""Print all rows as a table, or with --json as JSON. It takes minutes.

With --keep they come to results/bench as well, from where `make tables` puts them into
docs/speed.md.
"""

import json
import sys

from benchmarks import speed
from hpe_lib.workbook import environment, results

rows = speed.table()
if "--keep" in sys.argv[1:]:
    results.write("bench", {"rows": rows.to_dict("records")}, environment.command())
if "--json" in sys.argv[1:]:
    print(json.dumps(rows.to_dict("records"), indent=2, ensure_ascii=False))
else:
    print(rows.round(2).to_string(index=False))
