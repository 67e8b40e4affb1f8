"""Print all rows as a table, or with --json as JSON. It takes minutes."""

import json
import sys

from benchmarks import speed

rows = speed.table()
if "--json" in sys.argv[1:]:
    print(json.dumps(rows.to_dict("records"), indent=2, ensure_ascii=False))
else:
    print(rows.round(2).to_string(index=False))
