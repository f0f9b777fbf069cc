"""An application that signs all the while: `python -m tests.firmware.broker.signing DOOR SLOT`.

Says `signing` once it does, signs until its standard input ends, then tells how often, and what went wrong.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from .encoder import CallFailed
from .peer import Peer


def main() -> None:
    door, slot = Path(sys.argv[1]), int(sys.argv[2])
    told_to_end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), told_to_end.set()), daemon=True).start()
    signed, errors = 0, []
    with Peer(door) as peer:
        session = peer.session(slot, login=True)
        _, key = peer.ec_key_pair(session, token=False)
        print("signing", flush=True)
        while not told_to_end.is_set() and len(errors) < 100:
            try:
                peer.sign(session, key)
                signed += 1
            except (OSError, CallFailed) as error:
                errors.append(repr(error))
    print(json.dumps({"signed": signed, "errors": errors}))


if __name__ == "__main__":
    main()
