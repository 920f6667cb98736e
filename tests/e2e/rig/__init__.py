"""A private mail world for the end-to-end tests: Tox bootstrap node, agents, Postfix, Dovecot and mutt.

Everything listens on 127.0.0.1 or on Unix sockets below one temporary folder, and ends with the `Sandbox` it
was started in.
"""

from rig.agent import Agent, ToxctlError
from rig.bootstrap import Bootstrap
from rig.dovecot import Dovecot
from rig.mail import Comparison, compare, sample_mail
from rig.mutt import Mutt
from rig.postfix import Postfix
from rig.sandbox import Process, RigError, Sandbox
from rig.wait import TimedOut, wait_for

__all__ = [
    "Agent",
    "Bootstrap",
    "Comparison",
    "Dovecot",
    "Mutt",
    "Postfix",
    "Process",
    "RigError",
    "Sandbox",
    "TimedOut",
    "ToxctlError",
    "compare",
    "sample_mail",
    "wait_for",
]
