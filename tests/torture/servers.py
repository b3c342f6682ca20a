"""Stopping PostgreSQL as a crash would, while a command works on it."""

import random
import time

from tests.support.postgres import Postgres
from tests.torture.trials import Bench


def stop_server_during(server: Postgres, bench: Bench, dice: random.Random) -> bool:
    """Stop the server at a random moment of a command and start it again; return whether the command was at work.

    The command may wait for the server and go on, or end with one clear line.
    """
    seconds = dice.uniform(0, bench.undisturbed.seconds)

    def disturb() -> None:
        time.sleep(seconds)
        server.restart("immediate")

    return bench.disturb(disturb, f"the server was stopped after {seconds:.4f} s")
