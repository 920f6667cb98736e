"""libtoxcore by ctypes: contacts that are no agent, or a bad one."""

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Any

from rig.bootstrap import Bootstrap
from rig.sandbox import RigError, Sandbox

_u8p, _u16, _u32, _size, _ptr, _bool = (
    ctypes.c_char_p,
    ctypes.c_uint16,
    ctypes.c_uint32,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_bool,
)
_CONNECTION = ctypes.CFUNCTYPE(None, _ptr, _u32, ctypes.c_int, _ptr)
_PACKET = ctypes.CFUNCTYPE(None, _ptr, _u32, ctypes.POINTER(ctypes.c_uint8), _size, _ptr)
_MESSAGE = ctypes.CFUNCTYPE(None, _ptr, _u32, ctypes.c_int, ctypes.POINTER(ctypes.c_uint8), _size, _ptr)
_NONE = 0xFFFFFFFF

_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "tox_options_new": (_ptr, [_ptr]),
    "tox_options_free": (None, [_ptr]),
    "tox_options_set_ipv6_enabled": (None, [_ptr, _bool]),
    "tox_options_set_local_discovery_enabled": (None, [_ptr, _bool]),
    "tox_new": (_ptr, [_ptr, _ptr]),
    "tox_kill": (None, [_ptr]),
    "tox_iterate": (None, [_ptr, _ptr]),
    "tox_bootstrap": (_bool, [_ptr, _u8p, _u16, _u8p, _ptr]),
    "tox_add_tcp_relay": (_bool, [_ptr, _u8p, _u16, _u8p, _ptr]),
    "tox_self_get_public_key": (None, [_ptr, _ptr]),
    "tox_friend_add": (_u32, [_ptr, _u8p, _u8p, _size, _ptr]),
    "tox_friend_send_message": (_u32, [_ptr, _u32, ctypes.c_int, _u8p, _size, _ptr]),
    "tox_friend_send_lossless_packet": (_bool, [_ptr, _u32, _u8p, _size, _ptr]),
    "tox_callback_friend_connection_status": (None, [_ptr, _CONNECTION]),
    "tox_callback_friend_lossless_packet": (None, [_ptr, _PACKET]),
    "tox_callback_friend_message": (None, [_ptr, _MESSAGE]),
}


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libtoxcore.so.2")
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class ToxClient:
    """A Tox instance with one friend, driven by a thread until the sandbox closes."""

    def __init__(self, sandbox: Sandbox, bootstrap: Bootstrap) -> None:
        self._tox = _library()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self.online = False
        self.messages: list[bytes] = []
        self.packets: list[bytes] = []
        self.on_packet: Callable[[bytes], None] | None = None
        options = self._tox.tox_options_new(None)
        self._tox.tox_options_set_ipv6_enabled(options, False)
        self._tox.tox_options_set_local_discovery_enabled(options, False)
        self._raw = self._tox.tox_new(options, None)
        self._tox.tox_options_free(options)
        if not self._raw:
            raise RigError("tox_new failed")
        # The library keeps the pointers, so they must live as long as it does.
        self._callbacks = (
            _CONNECTION(self._on_connection),
            _PACKET(self._on_packet),
            _MESSAGE(self._on_message),
        )
        self._tox.tox_callback_friend_connection_status(self._raw, self._callbacks[0])
        self._tox.tox_callback_friend_lossless_packet(self._raw, self._callbacks[1])
        self._tox.tox_callback_friend_message(self._raw, self._callbacks[2])
        key, host = bytes.fromhex(bootstrap.key), bootstrap.host.encode()
        self._tox.tox_bootstrap(self._raw, host, bootstrap.port, key, None)
        self._tox.tox_add_tcp_relay(self._raw, host, bootstrap.tcp_port, key, None)
        own = ctypes.create_string_buffer(32)
        self._tox.tox_self_get_public_key(self._raw, own)
        self.key = own.raw.hex().upper()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        sandbox.on_close(self.close)

    def close(self) -> None:
        """End the instance."""
        self._stop.set()
        self._thread.join()
        with self._lock, contextlib.suppress(AttributeError):
            self._tox.tox_kill(self._raw)
            del self._raw

    def ask(self, tox_id: str, message: bytes = b"hi") -> None:
        """Send a friend request."""
        with self._lock:
            if self._tox.tox_friend_add(self._raw, bytes.fromhex(tox_id), message, len(message), None) == _NONE:
                raise RigError("tox_friend_add failed")

    def say(self, message: bytes) -> bool:
        """Send a message; whether toxcore took it."""
        with self._lock:
            error = ctypes.c_int(0)
            self._tox.tox_friend_send_message(self._raw, 0, 0, message, len(message), ctypes.byref(error))
            return error.value == 0

    def send_packet(self, packet: bytes) -> bool:
        """Send a lossless custom packet; whether toxcore took it."""
        with self._lock:
            return bool(self._tox.tox_friend_send_lossless_packet(self._raw, 0, packet, len(packet), None))

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            with self._lock:
                self._tox.tox_iterate(self._raw, None)

    def _on_connection(self, _tox: int, _friend: int, status: int, _user: int) -> None:
        self.online = status != 0

    def _on_packet(self, _tox: int, _friend: int, data: Any, length: int, _user: int) -> None:
        packet = bytes(data[:length])
        self.packets.append(packet)
        if self.on_packet is not None:
            self.on_packet(packet)

    def _on_message(self, _tox: int, _friend: int, _kind: int, data: Any, length: int, _user: int) -> None:
        self.messages.append(bytes(data[:length]))
