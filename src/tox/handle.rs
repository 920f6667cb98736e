//! The safe face of one Tox instance.
#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::fmt;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::NonNull;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sys;
use crate::identity::tox_id::{PublicKey, ToxId};

/// The longest message and custom packet, in octets (`TOX_MAX_MESSAGE_LENGTH`, tox.h).
pub const MAX_PACKET: usize = 1372;
/// The longest friend request message we send, in octets: newer libraries allow 921 (tox.h says 1016 in 0.2.18).
const MAX_REQUEST: usize = 900;

/// toxcore's number of a friend; valid until the friend is deleted, reused afterwards.
pub type FriendNumber = u32;

/// How something is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Not at all.
    Offline,
    /// Through a TCP relay.
    Tcp,
    /// Directly.
    Udp,
}

impl Connection {
    fn from_sys(value: sys::Tox_Connection) -> Self {
        match value {
            sys::Tox_Connection::TOX_CONNECTION_TCP => Self::Tcp,
            sys::Tox_Connection::TOX_CONNECTION_UDP => Self::Udp,
            _ => Self::Offline,
        }
    }
}

/// What one iteration brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Our own connection to the DHT changed.
    SelfConnection(Connection),
    /// A friend came, went or changed between UDP and TCP.
    FriendConnection(FriendNumber, Connection),
    /// Somebody asks for friendship, with a message of his.
    FriendRequest(PublicKey, Vec<u8>),
    /// A message of a friend: in a mail session, one packet of the link.
    FriendMessage(FriendNumber, Vec<u8>),
    /// A lossless custom packet of a friend, its kind (160 to 191) first.
    FriendPacket(FriendNumber, Vec<u8>),
}

/// A proxy for all of toxcore's TCP connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// SOCKS5, as Tor speaks it.
    Socks5(String, u16),
    /// HTTP CONNECT.
    Http(String, u16),
}

/// How an instance takes part in the network.
#[derive(Debug, Clone)]
pub struct Options {
    /// UDP; without it only TCP relays carry traffic.
    pub udp: bool,
    /// IPv6 beside IPv4.
    pub ipv6: bool,
    /// Whether to look for peers on the local network by broadcast.
    pub lan_discovery: bool,
    /// First and last UDP port to try.
    pub port_range: (u16, u16),
    /// Port on which to serve as a TCP relay; 0 = not.
    pub tcp_relay_port: u16,
    /// Proxy for TCP.
    pub proxy: Option<Proxy>,
}

/// Why an instance could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewToxError {
    /// No port of the range is free.
    Port,
    /// The proxy's host or port is wrong.
    Proxy,
    /// The savedata is damaged or encrypted.
    Savedata,
    /// Memory, or something the library does not name; its number.
    Other(u32),
}

impl fmt::Display for NewToxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port => f.write_str("no UDP or TCP port of tox.port_range or tox.tcp_relay_port is free"),
            Self::Proxy => f.write_str("tox.proxy: host or port cannot be used"),
            Self::Savedata => f.write_str("the Tox savedata is damaged or encrypted with another passphrase"),
            Self::Other(n) => write!(f, "libtoxcore refused to start (TOX_ERR_NEW {n})"),
        }
    }
}

impl std::error::Error for NewToxError {}

/// Why a packet was not taken by toxcore. Nothing that is taken is thereby delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The friend is gone or unknown.
    NotConnected,
    /// The send queue is full for now.
    Full,
    /// Empty, too long or otherwise wrong.
    Refused,
}

/// One Tox instance. `Send`, not `Sync`: whoever owns it drives it.
pub struct Tox {
    raw: NonNull<sys::Tox>,
    socket: Option<RawFd>,
}

// SAFETY: toxcore keeps no thread-local state; an instance may move between threads while one at a time uses it
// (tox.h, "Threading implications"), which `&mut self` on everything that changes it guarantees.
unsafe impl Send for Tox {}

/// The version of the library that runs, e.g. `0.2.18`.
pub fn version() -> String {
    // SAFETY: these functions take nothing and only return constants.
    let (major, minor, patch) =
        unsafe { (sys::tox_version_major(), sys::tox_version_minor(), sys::tox_version_patch()) };
    format!("{major}.{minor}.{patch}")
}

impl Tox {
    /// Starts an instance, with the identity of `savedata` or a new one.
    ///
    /// # Errors
    /// See [`NewToxError`].
    pub fn new(options: &Options, savedata: Option<&[u8]>) -> Result<Self, NewToxError> {
        let (proxy_type, proxy) = match &options.proxy {
            None => (sys::Tox_Proxy_Type::TOX_PROXY_TYPE_NONE, None),
            Some(Proxy::Http(host, port)) => (sys::Tox_Proxy_Type::TOX_PROXY_TYPE_HTTP, Some((host, port))),
            Some(Proxy::Socks5(host, port)) => (sys::Tox_Proxy_Type::TOX_PROXY_TYPE_SOCKS5, Some((host, port))),
        };
        let host = match proxy {
            Some((host, _)) => Some(CString::new(host.as_str()).map_err(|_| NewToxError::Proxy)?),
            None => None,
        };
        // SAFETY: the options come from tox_options_new and are freed once; toxcore 0.2.18 keeps the pointers of host
        // and savedata, both of which outlive the call of tox_new; tox_new copies what it needs from them.
        let (raw, error) = unsafe {
            let raw_options = sys::tox_options_new(std::ptr::null_mut());
            if raw_options.is_null() {
                return Err(NewToxError::Other(0));
            }
            sys::tox_options_set_udp_enabled(raw_options, options.udp);
            sys::tox_options_set_ipv6_enabled(raw_options, options.ipv6);
            sys::tox_options_set_local_discovery_enabled(raw_options, options.lan_discovery && options.udp);
            sys::tox_options_set_hole_punching_enabled(raw_options, true);
            sys::tox_options_set_start_port(raw_options, options.port_range.0);
            sys::tox_options_set_end_port(raw_options, options.port_range.1);
            sys::tox_options_set_tcp_port(raw_options, options.tcp_relay_port);
            sys::tox_options_set_proxy_type(raw_options, proxy_type);
            if let (Some(host), Some((_, port))) = (&host, proxy) {
                sys::tox_options_set_proxy_host(raw_options, host.as_ptr());
                sys::tox_options_set_proxy_port(raw_options, *port);
            }
            if let Some(data) = savedata {
                sys::tox_options_set_savedata_type(raw_options, sys::Tox_Savedata_Type::TOX_SAVEDATA_TYPE_TOX_SAVE);
                sys::tox_options_set_savedata_data(raw_options, data.as_ptr(), data.len() as sys::size_t);
                sys::tox_options_set_savedata_length(raw_options, data.len() as sys::size_t);
            }
            let mut error = sys::Tox_Err_New::TOX_ERR_NEW_OK;
            let raw = sys::tox_new(raw_options, &mut error);
            sys::tox_options_free(raw_options);
            (raw, error)
        };
        let Some(raw) = NonNull::new(raw) else {
            return Err(match error {
                sys::Tox_Err_New::TOX_ERR_NEW_PORT_ALLOC => NewToxError::Port,
                sys::Tox_Err_New::TOX_ERR_NEW_PROXY_BAD_TYPE
                | sys::Tox_Err_New::TOX_ERR_NEW_PROXY_BAD_HOST
                | sys::Tox_Err_New::TOX_ERR_NEW_PROXY_BAD_PORT
                | sys::Tox_Err_New::TOX_ERR_NEW_PROXY_NOT_FOUND => NewToxError::Proxy,
                sys::Tox_Err_New::TOX_ERR_NEW_LOAD_ENCRYPTED | sys::Tox_Err_New::TOX_ERR_NEW_LOAD_BAD_FORMAT => {
                    NewToxError::Savedata
                }
                other => NewToxError::Other(other.0),
            });
        };
        let mut tox = Self { raw, socket: None };
        // toxcore answers damaged savedata with a new instance and an error: taking it would change our identity.
        if error != sys::Tox_Err_New::TOX_ERR_NEW_OK {
            return Err(NewToxError::Savedata);
        }
        // SAFETY: the instance is alive and the callbacks have the types that the header asks for.
        unsafe {
            let raw = tox.raw.as_ptr();
            sys::tox_callback_self_connection_status(raw, Some(on_self_connection));
            sys::tox_callback_friend_connection_status(raw, Some(on_friend_connection));
            sys::tox_callback_friend_request(raw, Some(on_friend_request));
            sys::tox_callback_friend_message(raw, Some(on_friend_message));
            sys::tox_callback_friend_lossless_packet(raw, Some(on_friend_packet));
        }
        tox.socket = if options.udp { tox.find_udp_socket() } else { None };
        Ok(tox)
    }

    /// Looks for toxcore's UDP socket among our own descriptors by its bound port; the API does not give it.
    fn find_udp_socket(&self) -> Option<RawFd> {
        let (port, _) = self.node()?;
        let fds = std::fs::read_dir("/proc/self/fd").ok()?;
        fds.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok()).find(|fd| {
            use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
            // SAFETY: the descriptor was just listed as ours; should another thread close it meanwhile, the calls fail
            // with EBADF or look at another socket, which the comparison of type and port then refuses.
            let borrowed = unsafe { BorrowedFd::borrow_raw(*fd) };
            let bound = getsockname::<SockaddrStorage>(*fd).ok().and_then(|address| {
                let v4 = address.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
                v4.or_else(|| address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port))
            });
            bound == Some(port) && getsockopt(&borrowed, sockopt::SockType) == Ok(SockType::Datagram)
        })
    }

    /// Sleeps until a packet arrives on the UDP socket, `waker` becomes readable, or `milliseconds` are over. The sockets
    /// of TCP relays come and go and are not watched: while only they carry traffic, the time must be short.
    pub fn wait(&self, waker: BorrowedFd<'_>, milliseconds: u16) {
        // SAFETY: toxcore owns the descriptor and closes it only in tox_kill, which runs when `self` is dropped.
        let socket = self.socket.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
        let mut fds = vec![PollFd::new(waker, PollFlags::POLLIN)];
        fds.extend(socket.map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
        // An interrupted or failed poll only means that the caller looks sooner.
        let _ = poll(&mut fds, PollTimeout::from(milliseconds));
    }

    /// Takes in what arrived, sends what is due, and appends what happened to `events`.
    pub fn iterate(&mut self, events: &mut Vec<Event>) {
        let user_data = std::ptr::from_mut(events).cast::<c_void>();
        // SAFETY: the callbacks run only inside this call and use `user_data` only as the Vec it is.
        unsafe { sys::tox_iterate(self.raw.as_ptr(), user_data) };
    }

    /// How long, in milliseconds, the instance can wait until the next iteration when no packet arrives.
    pub fn interval(&self) -> u32 {
        // SAFETY: the instance is alive.
        unsafe { sys::tox_iteration_interval(self.raw.as_ptr()) }
    }

    /// Asks a node for a way into the DHT and, where it has TCP ports, uses it as a relay. Returns whether the name of
    /// the host was found and the key taken; an answer comes as [`Event::SelfConnection`].
    pub fn bootstrap(&mut self, host: &str, port: u16, tcp_ports: &[u16], key: &PublicKey) -> bool {
        let Ok(host) = CString::new(host) else { return false };
        // SAFETY: the host is a C string and the key has the 32 octets the header asks for.
        unsafe {
            let raw = self.raw.as_ptr();
            let found = sys::tox_bootstrap(raw, host.as_ptr(), port, key.0.as_ptr(), std::ptr::null_mut());
            for port in tcp_ports {
                sys::tox_add_tcp_relay(raw, host.as_ptr(), *port, key.0.as_ptr(), std::ptr::null_mut());
            }
            found
        }
    }

    /// Our own Tox ID.
    pub fn id(&self) -> ToxId {
        let mut octets = [0; 38];
        // SAFETY: the buffer has TOX_ADDRESS_SIZE (38) octets.
        unsafe { sys::tox_self_get_address(self.raw.as_ptr(), octets.as_mut_ptr()) };
        ToxId::from_octets(&octets).expect("toxcore computes the checksum of its own address")
    }

    /// The UDP port and the key by which others find the network through this instance; none without UDP. The key is
    /// another one than that of the Tox ID, and new in each run.
    pub fn node(&self) -> Option<(u16, PublicKey)> {
        let mut key = [0; 32];
        // SAFETY: the instance is alive and the buffer has TOX_PUBLIC_KEY_SIZE (32) octets; a null error pointer is allowed.
        let port = unsafe {
            sys::tox_self_get_dht_id(self.raw.as_ptr(), key.as_mut_ptr());
            sys::tox_self_get_udp_port(self.raw.as_ptr(), std::ptr::null_mut())
        };
        (port != 0).then_some((port, PublicKey(key)))
    }

    /// The part of our Tox ID that strangers must know to ask us.
    pub fn nospam(&self) -> u32 {
        // SAFETY: the instance is alive.
        unsafe { sys::tox_self_get_nospam(self.raw.as_ptr()) }
    }

    /// Changes that part, and with it the Tox ID; requests to the old one are not heard any more.
    pub fn set_nospam(&mut self, nospam: u32) {
        // SAFETY: the instance is alive.
        unsafe { sys::tox_self_set_nospam(self.raw.as_ptr(), nospam) };
    }

    /// The secret half of our Tox key.
    pub fn secret_key(&self) -> zeroize::Zeroizing<[u8; 32]> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        // SAFETY: the buffer has TOX_SECRET_KEY_SIZE (32) octets.
        unsafe { sys::tox_self_get_secret_key(self.raw.as_ptr(), key.as_mut_ptr()) };
        key
    }

    /// Our own connection to the DHT.
    pub fn connection(&self) -> Connection {
        // SAFETY: the instance is alive.
        Connection::from_sys(unsafe { sys::tox_self_get_connection_status(self.raw.as_ptr()) })
    }

    /// The identity with its friends and known nodes, unencrypted: a secret.
    pub fn savedata(&self) -> zeroize::Zeroizing<Vec<u8>> {
        // SAFETY: the buffer has the size that the library asks for.
        unsafe {
            let size = sys::tox_get_savedata_size(self.raw.as_ptr()) as usize;
            let mut data = zeroize::Zeroizing::new(vec![0; size]);
            sys::tox_get_savedata(self.raw.as_ptr(), data.as_mut_ptr());
            data
        }
    }

    /// Sets the name that friends see; cut at 128 octets by toxcore's limit.
    pub fn set_name(&mut self, name: &str) {
        let name = &name.as_bytes()[..name.len().min(128)];
        // SAFETY: pointer and length belong together.
        unsafe {
            sys::tox_self_set_name(self.raw.as_ptr(), name.as_ptr(), name.len() as sys::size_t, std::ptr::null_mut());
        }
    }

    /// Adds a friend and sends him a request with `message` (1 to 900 octets; longer is cut).
    ///
    /// # Errors
    /// toxcore's words for why not.
    pub fn add_friend(&mut self, id: &ToxId, message: &str) -> Result<FriendNumber, &'static str> {
        let mut end = message.len().min(MAX_REQUEST);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = if end == 0 { "." } else { &message[..end] };
        let octets = id.octets();
        let mut error = sys::Tox_Err_Friend_Add::TOX_ERR_FRIEND_ADD_OK;
        // SAFETY: the address has 38 octets; message pointer and length belong together.
        let number = unsafe {
            sys::tox_friend_add(
                self.raw.as_ptr(),
                octets.as_ptr(),
                message.as_ptr(),
                message.len() as sys::size_t,
                &mut error,
            )
        };
        friend_result(number, error)
    }

    /// Adds a friend without a request: he asked us, or was a friend already.
    ///
    /// # Errors
    /// toxcore's words for why not.
    pub fn add_known_friend(&mut self, key: &PublicKey) -> Result<FriendNumber, &'static str> {
        let mut error = sys::Tox_Err_Friend_Add::TOX_ERR_FRIEND_ADD_OK;
        // SAFETY: the key has 32 octets.
        let number = unsafe { sys::tox_friend_add_norequest(self.raw.as_ptr(), key.0.as_ptr(), &mut error) };
        friend_result(number, error)
    }

    /// Forgets a friend; his number may be given to another one.
    pub fn delete_friend(&mut self, friend: FriendNumber) {
        // SAFETY: the instance is alive; an unknown number is an error of the call, not of memory.
        unsafe { sys::tox_friend_delete(self.raw.as_ptr(), friend, std::ptr::null_mut()) };
    }

    /// All friends with their keys.
    pub fn friends(&self) -> Vec<(FriendNumber, PublicKey)> {
        // SAFETY: the list has the size that the library asks for; the key buffer has 32 octets.
        unsafe {
            let raw = self.raw.as_ptr();
            let mut numbers = vec![0; sys::tox_self_get_friend_list_size(raw) as usize];
            sys::tox_self_get_friend_list(raw, numbers.as_mut_ptr());
            let key = |number: u32| {
                let mut key = [0; 32];
                sys::tox_friend_get_public_key(raw, number, key.as_mut_ptr(), std::ptr::null_mut())
                    .then_some((number, PublicKey(key)))
            };
            numbers.into_iter().filter_map(key).collect()
        }
    }

    /// Sends one packet as a message: fast, in order, outside toxcore's congestion control (the caller's window rules).
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_message(&mut self, friend: FriendNumber, packet: &[u8]) -> Result<(), SendError> {
        let mut error = sys::Tox_Err_Friend_Send_Message::TOX_ERR_FRIEND_SEND_MESSAGE_OK;
        // SAFETY: pointer and length belong together.
        unsafe {
            sys::tox_friend_send_message(
                self.raw.as_ptr(),
                friend,
                sys::Tox_Message_Type::TOX_MESSAGE_TYPE_NORMAL,
                packet.as_ptr(),
                packet.len() as sys::size_t,
                &mut error,
            );
        }
        match error {
            sys::Tox_Err_Friend_Send_Message::TOX_ERR_FRIEND_SEND_MESSAGE_OK => Ok(()),
            sys::Tox_Err_Friend_Send_Message::TOX_ERR_FRIEND_SEND_MESSAGE_SENDQ => Err(SendError::Full),
            sys::Tox_Err_Friend_Send_Message::TOX_ERR_FRIEND_SEND_MESSAGE_FRIEND_NOT_FOUND
            | sys::Tox_Err_Friend_Send_Message::TOX_ERR_FRIEND_SEND_MESSAGE_FRIEND_NOT_CONNECTED => {
                Err(SendError::NotConnected)
            }
            _ => Err(SendError::Refused),
        }
    }

    /// Sends one lossless custom packet, whose first octet is 160 to 191.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_packet(&mut self, friend: FriendNumber, packet: &[u8]) -> Result<(), SendError> {
        let mut error = sys::Tox_Err_Friend_Custom_Packet::TOX_ERR_FRIEND_CUSTOM_PACKET_OK;
        // SAFETY: pointer and length belong together.
        unsafe {
            sys::tox_friend_send_lossless_packet(
                self.raw.as_ptr(),
                friend,
                packet.as_ptr(),
                packet.len() as sys::size_t,
                &mut error,
            );
        }
        match error {
            sys::Tox_Err_Friend_Custom_Packet::TOX_ERR_FRIEND_CUSTOM_PACKET_OK => Ok(()),
            sys::Tox_Err_Friend_Custom_Packet::TOX_ERR_FRIEND_CUSTOM_PACKET_SENDQ => Err(SendError::Full),
            sys::Tox_Err_Friend_Custom_Packet::TOX_ERR_FRIEND_CUSTOM_PACKET_FRIEND_NOT_FOUND
            | sys::Tox_Err_Friend_Custom_Packet::TOX_ERR_FRIEND_CUSTOM_PACKET_FRIEND_NOT_CONNECTED => {
                Err(SendError::NotConnected)
            }
            _ => Err(SendError::Refused),
        }
    }
}

impl Drop for Tox {
    /// Says goodbye to the friends (they notice in 0.06 s instead of 30) and ends the instance.
    fn drop(&mut self) {
        // SAFETY: the instance is alive and nobody uses it afterwards.
        unsafe { sys::tox_kill(self.raw.as_ptr()) };
    }
}

fn friend_result(number: u32, error: sys::Tox_Err_Friend_Add) -> Result<FriendNumber, &'static str> {
    match error {
        sys::Tox_Err_Friend_Add::TOX_ERR_FRIEND_ADD_OK => Ok(number),
        sys::Tox_Err_Friend_Add::TOX_ERR_FRIEND_ADD_OWN_KEY => Err("that is this account's own Tox ID"),
        sys::Tox_Err_Friend_Add::TOX_ERR_FRIEND_ADD_ALREADY_SENT => Err("that Tox ID is a contact already"),
        sys::Tox_Err_Friend_Add::TOX_ERR_FRIEND_ADD_BAD_CHECKSUM => Err("the checksum of that Tox ID is wrong"),
        sys::Tox_Err_Friend_Add::TOX_ERR_FRIEND_ADD_SET_NEW_NOSPAM => {
            Err("that key is a contact already, with another nospam")
        }
        sys::Tox_Err_Friend_Add::TOX_ERR_FRIEND_ADD_TOO_LONG => Err("the message is too long"),
        _ => Err("libtoxcore could not add the friend"),
    }
}

/// The list that [`Tox::iterate`] passes through toxcore.
///
/// # Safety
/// `user_data` is the pointer that `iterate` gave, and no other reference to the Vec is alive.
unsafe fn events<'a>(user_data: *mut c_void) -> &'a mut Vec<Event> {
    // SAFETY: as the function's contract says.
    unsafe { &mut *user_data.cast::<Vec<Event>>() }
}

/// Copies `length` octets that toxcore lends to a callback.
///
/// # Safety
/// `data` points to `length` octets, or `length` is 0.
unsafe fn copy(data: *const u8, length: sys::size_t) -> Vec<u8> {
    if length == 0 || data.is_null() {
        return Vec::new();
    }
    // SAFETY: as the function's contract says.
    unsafe { std::slice::from_raw_parts(data, length as usize) }.to_vec()
}

// The callbacks: allocation failure aborts and nothing else in them can panic, so no unwinding crosses into C.

unsafe extern "C" fn on_self_connection(_: *mut sys::Tox, status: sys::Tox_Connection, user_data: *mut c_void) {
    // SAFETY: called by toxcore inside `iterate`.
    unsafe { events(user_data) }.push(Event::SelfConnection(Connection::from_sys(status)));
}

unsafe extern "C" fn on_friend_connection(
    _: *mut sys::Tox,
    friend: u32,
    status: sys::Tox_Connection,
    user_data: *mut c_void,
) {
    // SAFETY: called by toxcore inside `iterate`.
    unsafe { events(user_data) }.push(Event::FriendConnection(friend, Connection::from_sys(status)));
}

unsafe extern "C" fn on_friend_request(
    _: *mut sys::Tox,
    key: *const u8,
    message: *const u8,
    length: sys::size_t,
    user_data: *mut c_void,
) {
    let mut public_key = [0; 32];
    // SAFETY: called by toxcore inside `iterate` with a key of 32 octets and a message of `length`.
    unsafe {
        std::ptr::copy_nonoverlapping(key, public_key.as_mut_ptr(), 32);
        events(user_data).push(Event::FriendRequest(PublicKey(public_key), copy(message, length)));
    }
}

unsafe extern "C" fn on_friend_message(
    _: *mut sys::Tox,
    friend: u32,
    _kind: sys::Tox_Message_Type,
    message: *const u8,
    length: sys::size_t,
    user_data: *mut c_void,
) {
    // SAFETY: called by toxcore inside `iterate` with a message of `length` octets.
    unsafe { events(user_data).push(Event::FriendMessage(friend, copy(message, length))) };
}

unsafe extern "C" fn on_friend_packet(
    _: *mut sys::Tox,
    friend: u32,
    data: *const u8,
    length: sys::size_t,
    user_data: *mut c_void,
) {
    // SAFETY: called by toxcore inside `iterate` with a packet of `length` octets.
    unsafe { events(user_data).push(Event::FriendPacket(friend, copy(data, length))) };
}
