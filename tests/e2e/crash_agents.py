"""kill -9 for the agents while mails flow: each mail must arrive once, and byte for byte.

TOXMAIL_CRASH_ROUNDS (default 20) and TOXMAIL_CRASH_SEED say how often and in which order; the seed is printed.
Run by `make crash`: python3 -m unittest discover -s tests/e2e -p 'crash_*.py'
"""

import os
import random
import sys
import time
from functools import partial
from pathlib import Path

from rig.agent import Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.mail import compare, find_in_maildir, sample_mail
from rig.postfix import Postfix
from rig.wait import wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))
ROUNDS = int(os.environ.get("TOXMAIL_CRASH_ROUNDS", "20"))
SEED = int(os.environ.get("TOXMAIL_CRASH_SEED", random.randrange(1 << 32)))

ALICE = "alice@alice.example"
BOB_AT_TOX = "bob@tox.alt"
SIZES = (0, 0, 0, 60_000, 2_000_000)


def arrived(agent: Agent, message_id: str) -> list[Path] | None:
    """Where the mail is in the agent's Maildir, if it is."""
    return find_in_maildir(agent.maildir, message_id) or None


class CrashTest(SandboxCase):
    """Mails from alice to bob, with a crash of one or both agents in each round."""

    def test_every_mail_arrives_once(self) -> None:
        print(f"TOXMAIL_CRASH_SEED={SEED}", file=sys.stderr)
        chance = random.Random(SEED)
        bootstrap = Bootstrap(self.box)
        binaries = install_programs(self.box, BIN)
        alice, bob = (
            Agent(
                self.box,
                name,
                binaries=binaries,
                bootstrap=bootstrap,
                addresses=[f"{name}@tox.example"],
                senders=[f"{name}@{name}.example"],
            )
            for name in ("alice", "bob")
        )
        # While the agent is down Postfix must try again at once, not in five minutes.
        postfix = Postfix(
            self.box,
            "postfix",
            domain="alice.example",
            lmtp_socket=alice.lmtp_socket,
            settings={"queue_run_delay": "1s", "minimal_backoff_time": "1s", "maximal_backoff_time": "1s"},
        )
        befriend(alice, bob)

        sent: dict[str, bytes] = {}
        for number in range(ROUNDS):
            message_id = f"<crash.{number}@alice.example>"
            sent[message_id] = sample_mail(
                sender=ALICE,
                to=BOB_AT_TOX,
                subject=f"crash {number}",
                text="Still here?\n",
                message_id=message_id,
                attachment_size=chance.choice(SIZES),
                seed=number,
            )
            postfix.smtp(ALICE, [BOB_AT_TOX], sent[message_id])
            victims = chance.choice(([alice], [bob], [alice, bob]))
            # Not a wait for anything: the moment of the crash is what is varied.
            time.sleep(chance.random() ** 3 * 0.5)
            for victim in victims:
                victim.kill()
            for victim in victims:
                victim.start()

        for message_id, mail in sent.items():
            found = wait_for(message_id, partial(arrived, bob, message_id), 300)
            with self.subTest(mail=message_id):
                result = compare(mail, found[0].read_bytes())
                self.assertTrue(result.intact, result)
        wait_for("empty queues", lambda: alice.queued() == 0 and not postfix.queue(), 300)
        for message_id in sent:
            with self.subTest(mail=message_id):
                self.assertEqual(len(find_in_maildir(bob.maildir, message_id)), 1)
