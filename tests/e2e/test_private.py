"""`tox.private`: whatever the agent does goes to the SOCKS server or to a Unix socket; seen from outside, call by call.

python3 -m unittest discover -s tests/e2e -p test_private.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

from typing import ClassVar

from rig.agent import Agent, ToxctlError, befriend
from rig.net import HOST, free_udp_ports
from rig.relay import PORTS, SOON, Relay, wait_at_relays, wait_lane, wait_owner
from rig.sandbox import UNPRIVILEGED
from rig.sockets import SocketWatch
from rig.socks import SocksServer
from rig.wait import wait_for
from test_agent import NetworkCase, mail, queue_id_of, stored

# What the C library asks before it asks the DNS: whoever tries it looks up a name.
NAME_SERVICE = "/var/run/nscd/socket"


def node(host: str) -> str:
    """A section with a bootstrap node that nobody is at."""
    return f'\n[[tox.bootstrap]]\nhost = "{host}"\nport = 33445\nkey = "{"11" * 32}"\n'


class PrivateTest(NetworkCase):
    """dora, who has two accounts, is private; emil is not. Both know a bootstrap node by a name, have mail wait at one
    relay, and are contacts."""

    dora: ClassVar[Agent]
    emil: ClassVar[Agent]
    proxy: ClassVar[SocksServer]
    seen: ClassVar[dict[str, SocketWatch]]
    relay: ClassVar[Relay]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.proxy = SocksServer(cls.box)
        cls.seen = {name: SocketWatch(cls.box.dir(f"{name}-watch", user=UNPRIVILEGED)) for name in ("dora", "emil")}
        second = cls.box.dir("second", user=UNPRIVILEGED) / "Maildir"
        # What is not said is as where nobody has said anything: IPv6 is used, and names would be looked up.
        unsaid = {"udp": None, "ipv6": None, "lan_discovery": None}
        cls.dora = cls.agent(
            "dora",
            watch=cls.seen["dora"],
            settings={**SOON, "tox": {**unsaid, "private": f"socks5://{HOST}:{cls.proxy.port}"}, "names": {}},
            extra_config=f'\n[[account]]\nname = "second"\nmaildir = "{second}"\n{node("node.invalid")}',
        )
        cls.emil = cls.agent(
            "emil", watch=cls.seen["emil"], ports=free_udp_ports(PORTS), settings=SOON, extra_config=node("localhost")
        )
        befriend(cls.emil, cls.dora)
        cls.relay = Relay(cls.box, "relay", binaries=cls.binaries, bootstrap=cls.bootstrap)
        cls.dora.ctl("--account", "dora", "relay", "use", cls.relay.invite())
        cls.emil.ctl("relay", "use", cls.relay.invite())

    def exchange(self, one: Agent, other: Agent) -> None:
        sender, message_id = f"{one.name}@{one.name}.example", f"<{one.name}@private.example>"
        one.submit(sender, [f"{other.name}@tox.alt"], mail(message_id, sender=sender))
        stored(other.maildir, message_id, timeout=120)

    def test_nothing_goes_past_the_proxy(self) -> None:
        def connections() -> list[str]:
            return [str(account["connection"]) for account in self.dora.json("status")["accounts"]]

        wait_for("both accounts online", lambda: connections() == ["tcp", "tcp"], timeout=120)
        self.exchange(self.dora, self.emil)
        self.exchange(self.emil, self.dora)
        # As an owner at a relay, and as a visitor.
        wait_owner(self.dora, [self.relay.relay_key])
        wait_lane(self.dora, self.emil, [self.relay.relay_key])
        self.emil.stop()
        words = self.dora.submit("dora@dora.example", ["emil@tox.alt"], mail("<relay@dora.example>"))
        wait_at_relays(self.dora, queue_id_of(words), 1)
        # Each of these would ask the DNS if it might.
        status, words = self.dora.transport("dora@dora.example", ["bob@elsewhere.invalid"], mail("<new@dora.example>"))
        self.assertEqual((status, words[:6]), (67, "5.1.2 "), words)
        with self.assertRaises(ToxctlError):
            self.dora.ctl("name", "lookup", "bob@elsewhere.invalid")
        self.dora.ctl("name", "record")
        self.assertIn("node.invalid is a name, which is not looked up with a proxy", self.dora.log)

        seen = self.seen["dora"]
        self.assertEqual(seen.kinds(), {("AF_UNIX", "SOCK_STREAM"), ("AF_INET", "SOCK_STREAM")})
        self.assertEqual(seen.targets(), {(HOST, self.proxy.port)})
        self.assertEqual(seen.bound(), set(), "nobody can connect to it")
        self.assertEqual(seen.unix(), set(), "no name service, either")
        self.assertIn((HOST, self.bootstrap.tcp_port), self.proxy.targets)

    def test_an_ordinary_agent_is_seen_to_do_all_of_it(self) -> None:
        seen = self.seen["emil"]
        self.assertIn(("AF_INET", "SOCK_DGRAM"), seen.kinds())
        self.assertIn((HOST, self.bootstrap.port), seen.targets())
        self.assertIn("AF_INET", seen.bound())
        wait_for("the look-up of a node's name", lambda: NAME_SERVICE in seen.unix())
