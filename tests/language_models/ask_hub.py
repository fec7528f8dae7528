"""A process of its own that finds models: the hub's library reads its environment once, when it is imported.

    python ask_hub.py SECONDS    after which a hub that does not answer is given up

Each line of stdin is a JSON list [name, revision]; each line of stdout says what came of it.
"""

import json
import sys
import time

from gsae.errors import RunError, SettingError
from gsae.language_models import hub

if __name__ == "__main__":
    hub.SECONDS = float(sys.argv[1])
    for line in sys.stdin:
        name, revision = json.loads(line)
        began = time.monotonic()
        try:
            found = hub.find(name, revision)
            answer = {"directory": str(found.directory), "commit": found.commit}
        except (SettingError, RunError) as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        print(json.dumps(answer | {"seconds": time.monotonic() - began}), flush=True)
