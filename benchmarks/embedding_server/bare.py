"""The runtime without a server: what one text takes in the process itself. Asked line by line.

python -m benchmarks.embedding_server.bare MODEL

Reads a JSON list of texts per line; answers a JSON list of seconds, one for each: the tokens go in, the vector comes
out, with the settings that the server uses. Splitting the text is not in it.
"""

import json
import sys
import time
from pathlib import Path

from serving.backends import open_backend
from serving.settings import ServeSettings


def main() -> None:
    """Answer until stdin ends."""
    backend = open_backend(ServeSettings(_env_file=None, model=Path(sys.argv[1]), device="cpu"))
    for line in sys.stdin:
        seconds: list[float] = []
        for text in json.loads(line):
            ids = backend.split(text).ids
            started = time.perf_counter()
            backend.run([ids])
            seconds.append(time.perf_counter() - started)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
