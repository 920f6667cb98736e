//! tox3: names asked for under encryption, of the server of a domain whose X25519 key is known beforehand
//! (`toxdns/toxdns.c` of c-toxcore before 0.2.0, byte for byte). Hides the name from whoever carries the query, and
//! proves that the answer comes from that server.
//!
//! No randomness of its own: a client gets a fresh secret and a random counter.

use std::fmt;

use crypto_box::aead::AeadInPlace;
use crypto_box::{Nonce, SalsaBox, SecretKey, Tag};
use zeroize::Zeroizing;

use super::base32;
use super::query::{InvalidName, Query};
use crate::identity::tox_id::{InvalidToxId, PublicKey, ToxId};

/// The octets of a request that one label carries, as 48 characters.
const PIECE: usize = 30;
/// The octets of the Poly1305 MAC, which stands before what it protects.
const MAC: usize = 16;
/// The longest name, in octets. How much of it DNS carries depends on the domain: 94 for `toxme.se`.
const MAX_NAME: usize = 255;
/// The octet after the counter in a nonce: who encrypted.
const REQUEST: u8 = 0;
const REPLY: u8 = 1;

/// The client's side of one server: a key pair of its own and the counter that keeps nonces apart.
///
/// Holds a secret: neither printed nor cloned, and wiped when dropped (but for copies that [`SecretKey`] leaves on the
/// stack; it is of no use after the last reply).
pub struct Client {
    shared: SalsaBox,
    public: [u8; 32],
    first: u32,
    /// The counter of the next request; `None` when all were used.
    next: Option<u32>,
}

/// A request that was made: what to ask for, and what opens the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    labels: Vec<Vec<u8>>,
    counter: u32,
}

/// Why no request can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The name is empty or longer than 255 octets.
    Name,
    /// Every counter was used: a nonce must never be used again, so make a new client.
    Exhausted,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the part before @ is empty or longer than 255 octets",
            Self::Exhausted => "this key made 4294967296 requests, which are all it can",
        })
    }
}

impl std::error::Error for RequestError {}

/// Why a reply gives no Tox ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// It was not made by the server for this request.
    Forged,
    /// What the server sent is no Tox ID.
    Id(InvalidToxId),
    /// The server sent a public key of zero, which nobody can have.
    ZeroKey,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forged => f.write_str("the encrypted answer was not made with the configured key of this domain"),
            Self::Id(error) => write!(f, "the encrypted answer holds no Tox ID: {error}"),
            Self::ZeroKey => f.write_str("the encrypted answer holds no Tox ID: its public key is zero"),
        }
    }
}

impl std::error::Error for OpenError {}

/// The counter in little-endian order (the server takes it as it comes), then who encrypted, then zeros.
fn nonce(counter: u32, by: u8) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[..4].copy_from_slice(&counter.to_le_bytes());
    nonce[4] = by;
    nonce
}

impl Client {
    /// A client of the server with `server_key` (X25519). `secret` (X25519) and `counter` are random, and for no other
    /// client.
    pub fn new(server_key: [u8; 32], secret: [u8; 32], counter: u32) -> Self {
        let secret = SecretKey::from(*Zeroizing::new(secret));
        let shared = SalsaBox::new(&crypto_box::PublicKey::from(server_key), &secret);
        Self { shared, public: *secret.public_key().as_bytes(), first: counter, next: Some(counter) }
    }

    /// The request for `name`, the local part of an address, in lower case (ASCII only).
    ///
    /// # Errors
    /// The length of the name, or the end of the counter.
    pub fn request(&mut self, name: &str) -> Result<Request, RequestError> {
        if !(1..=MAX_NAME).contains(&name.len()) {
            return Err(RequestError::Name);
        }
        let counter = self.next.ok_or(RequestError::Exhausted)?;
        self.next = Some(counter.wrapping_add(1)).filter(|next| *next != self.first);
        let mut name = name.to_ascii_lowercase().into_bytes();
        let sealed = self.shared.encrypt_in_place_detached(&nonce(counter, REQUEST), b"", &mut name);
        let mac = sealed.expect("encryption fails only for associated data, and there is none");
        let raw = [&counter.to_le_bytes()[..], &self.public, &mac, &name].concat();
        let mut labels: Vec<_> = raw.chunks(PIECE).map(|piece| base32::encode(piece).into_bytes()).collect();
        // Tells the server that this is no name in the clear.
        labels[0].insert(0, b'_');
        labels.push(b"_tox".to_vec());
        Ok(Request { labels, counter })
    }

    /// The Tox ID in the reply `sealed` to `request`, which this client made.
    ///
    /// # Errors
    /// The reply is forged, or holds no Tox ID.
    pub fn open(&self, request: &Request, sealed: &[u8; 54]) -> Result<ToxId, OpenError> {
        let mut id = [0; 38];
        id.copy_from_slice(&sealed[MAC..]);
        self.shared
            .decrypt_in_place_detached(&nonce(request.counter, REPLY), b"", &mut id, Tag::from_slice(&sealed[..MAC]))
            .map_err(|_| OpenError::Forged)?;
        let id = ToxId::from_octets(&id).map_err(OpenError::Id)?;
        if id.key() == PublicKey([0; 32]) { Err(OpenError::ZeroKey) } else { Ok(id) }
    }
}

impl Request {
    /// What stands before the domain, as in [`Query::labels`]: `_tox` last.
    pub fn labels(&self) -> &[Vec<u8>] {
        &self.labels
    }

    /// The name whose TXT record is the reply: `_…._tox.domain`.
    ///
    /// # Errors
    /// The domain is none of DNS, or the whole is too long: each octet of the name takes 1.6 characters, on top of 84.
    pub fn query(&self, domain: &str) -> Result<Query, InvalidName> {
        Query::new(self.labels.clone(), domain)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::record::{self, Record};
    use super::super::vectors;
    use super::*;

    /// What the server of a domain does (`testing/dns3_test.c`).
    struct Server(SecretKey);

    impl Server {
        /// The name, counter and shared key of the request in `query`.
        fn open_request(&self, query: &Query) -> Option<(String, u32, SalsaBox)> {
            let (last, labels) = query.labels.split_last()?;
            let text = labels.concat();
            let raw = base32::decode(text.strip_prefix(b"_")?).ok()?;
            assert_eq!(last, b"_tox");
            let (counter, rest) = raw.split_first_chunk::<4>()?;
            let (public, rest) = rest.split_first_chunk::<32>()?;
            let (mac, sealed) = rest.split_first_chunk::<MAC>()?;
            let (counter, mut name) = (u32::from_le_bytes(*counter), sealed.to_vec());
            let shared = SalsaBox::new(&crypto_box::PublicKey::from(*public), &self.0);
            let nonce = nonce(counter, REQUEST);
            shared.decrypt_in_place_detached(&nonce, b"", &mut name, Tag::from_slice(mac)).ok()?;
            Some((String::from_utf8(name).ok()?, counter, shared))
        }

        fn seal_reply(&self, counter: u32, shared: &SalsaBox, id: &[u8; 38]) -> [u8; 54] {
            let mut id = *id;
            let mac = shared.encrypt_in_place_detached(&nonce(counter, REPLY), b"", &mut id).expect("no data");
            [&mac[..], &id].concat().try_into().expect("16 and 38 octets")
        }
    }

    fn client(vector: &Value) -> Client {
        let counter = u32::try_from(vector["counter_u32"].as_u64().expect("a number")).expect("32 bits");
        assert_eq!(counter.to_le_bytes()[..], vectors::octets(vector, "counter_bytes_le"));
        let secret = vectors::key(vector, "client_temp_secret_key");
        let client = Client::new(vectors::key(vector, "server_public_key"), secret, counter);
        assert_eq!(client.public, vectors::key(vector, "client_temp_public_key"));
        client
    }

    #[test]
    fn the_vectors_are_met_in_both_directions() {
        for vector in vectors::list(&vectors::all(), "vectors") {
            let (name, text) = (vectors::text(&vector, "name"), |key| vectors::text(&vector, key));
            assert_eq!(name.as_bytes(), vectors::octets(&vector, "name_utf8_hex"));
            let mut client = client(&vector);
            let request = client.request(&name.to_ascii_uppercase()).expect("the first");
            let pieces = vectors::list(&vector, "labels");
            let pieces: Vec<&str> = pieces.iter().map(|label| label.as_str().expect("a text")).collect();
            assert_eq!(pieces.join("."), text("dns3_string"));
            let raw =
                pieces.iter().flat_map(|piece| base32::decode(piece.as_bytes()).expect("base32")).collect::<Vec<u8>>();
            assert_eq!(raw, vectors::octets(&vector, "request_raw"));
            assert_eq!(raw.len() as u64, vector["request_raw_len"].as_u64().expect("a number"));
            assert_eq!(raw[36..], vectors::octets(&vector, "request_box"));
            let query = request.query(&text("domain")).expect("fits");
            assert_eq!(query.to_string(), text("query_name"));
            assert_eq!(query.to_string().len() as u64, vector["query_name_len"].as_u64().expect("a number"));
            assert_eq!(nonce(request.counter, REQUEST)[..], vectors::octets(&vector, "request_nonce"));
            assert_eq!(nonce(request.counter, REPLY)[..], vectors::octets(&vector, "response_nonce"));

            let server = Server(SecretKey::from(vectors::key(&vector, "server_secret_key")));
            assert_eq!(server.0.public_key().as_bytes(), &vectors::key(&vector, "server_public_key"));
            let (asked, counter, shared) = server.open_request(&query).expect("well made");
            assert_eq!((asked, counter), (name, request.counter));
            let id: ToxId = text("tox_id").parse().expect("an ID");
            let sealed = server.seal_reply(counter, &shared, &id.octets());
            assert_eq!(sealed[..], vectors::octets(&vector, "response_box"));
            let reply = record::read(text("response_txt").as_bytes());
            assert_eq!(reply, Ok(Some(Record::Tox3 { sealed })));
            assert_eq!(client.open(&request, &sealed), Ok(id));
        }
    }

    #[test]
    fn a_reply_that_is_not_the_servers_to_this_request_is_refused() {
        let vectors = vectors::list(&vectors::all(), "vectors");
        let mut client = client(&vectors[0]);
        let request = client.request("tarek").expect("the first");
        let sealed: [u8; 54] = vectors::octets(&vectors[0], "response_box").try_into().expect("54 octets");
        for at in 0..sealed.len() {
            let mut forged = sealed;
            forged[at] ^= 0x80;
            assert_eq!(client.open(&request, &forged), Err(OpenError::Forged), "octet {at}");
        }
        let next = client.request("tarek").expect("the second");
        assert_eq!(client.open(&next, &sealed), Err(OpenError::Forged));
        // The request itself, sent back: the two directions have different nonces.
        let server = Server(SecretKey::from(vectors::key(&vectors[0], "server_secret_key")));
        let query = request.query("toxme.se").expect("fits");
        let (_, counter, shared) = server.open_request(&query).expect("well made");
        let mut id = [7; 38];
        let mac = shared.encrypt_in_place_detached(&nonce(counter, REQUEST), b"", &mut id).expect("no data");
        let echo = [&mac[..], &id].concat().try_into().expect("54 octets");
        assert_eq!(client.open(&request, &echo), Err(OpenError::Forged));
        // A server that sends rubbish.
        let rubbish = server.seal_reply(counter, &shared, &[7; 38]);
        assert_eq!(client.open(&request, &rubbish), Err(OpenError::Id(InvalidToxId::Checksum)));
        let zero = server.seal_reply(counter, &shared, &[0; 38]);
        assert_eq!(client.open(&request, &zero), Err(OpenError::ZeroKey));
    }

    #[test]
    fn surplus_bits_of_a_reply_do_not_matter() {
        let vector = vectors::list(&vectors::all(), "vectors")[0].clone();
        let text = vectors::text(&vector, "response_txt");
        let (last, rest) = (text.as_bytes()[text.len() - 1], &text[..text.len() - 1]);
        let last = "abcdefghijklmnopqrstuvwxyz012345".find(char::from(last)).expect("a digit");
        // 87 digits are 435 bits, 3 more than the 54 octets: of the last digit two count.
        for high in 0..8 {
            let digit = "abcdefghijklmnopqrstuvwxyz012345".as_bytes()[last & 3 | high << 2];
            let record = record::read(format!("{rest}{}", char::from(digit)).as_bytes()).expect("good").expect("ours");
            let sealed = vectors::octets(&vector, "response_box").try_into().expect("54 octets");
            assert_eq!(record, Record::Tox3 { sealed });
        }
    }

    #[test]
    fn no_counter_is_used_twice() {
        let vectors = vectors::list(&vectors::all(), "vectors");
        let mut client = client(&vectors[2]);
        let counters: Vec<u32> = (0..3).map(|_| client.request("a").expect("left").counter).collect();
        assert_eq!(counters, [u32::MAX, 0, 1]);
        client.next = Some(u32::MAX - 1);
        assert_eq!(client.request("a").expect("the last").counter, u32::MAX - 1);
        assert_eq!(client.request("a"), Err(RequestError::Exhausted));
        assert_eq!(client.request("a"), Err(RequestError::Exhausted));
    }

    #[test]
    fn a_name_is_as_long_as_the_domain_leaves_room() {
        let mut client = Client::new([9; 32], [1; 32], 0);
        for (name, error) in [(0, Some(RequestError::Name)), (1, None), (255, None), (256, Some(RequestError::Name))] {
            assert_eq!(client.request(&"a".repeat(name)).err(), error, "{name} octets");
        }
        for (domain, most) in [("toxme.se", 94), ("mail.example.org", 89)] {
            let mut query = |octets| client.request(&"a".repeat(octets)).expect("left").query(domain);
            assert!(query(most).is_ok_and(|query| query.to_string().len() <= 253), "{domain}");
            assert_eq!(query(most + 1), Err(InvalidName::LongName), "{domain}");
        }
        assert_eq!(client.request("a").expect("left").query("tox.alt"), Err(InvalidName::NotDns("alt")));
    }

    #[test]
    fn the_box_of_the_https_service_opens() {
        // Of another protocol of the same servers, with the same primitive.
        let push = vectors::all()["toxme_push"].clone();
        let request = push["request"].clone();
        let base64 = |key| BASE64.decode(vectors::text(&request, key).as_bytes()).expect(key);
        let public = crypto_box::PublicKey::from(vectors::key(&request, "public_key"));
        let shared = SalsaBox::new(&public, &SecretKey::from(vectors::key(&push, "server_secret")));
        let sealed = base64("encrypted");
        let (mac, mut text) = (Tag::clone_from_slice(&sealed[..MAC]), sealed[MAC..].to_vec());
        let nonce = Nonce::clone_from_slice(&base64("nonce"));
        shared.decrypt_in_place_detached(&nonce, b"", &mut text, &mac).expect("authentic");
        assert_eq!(text, vectors::text(&push, "inner").as_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_name_and_id_come_through(
            server: [u8; 32], secret: [u8; 32], counter: u32, name in "[a-zé_.-]{1,40}", key: [u8; 32], nospam: [u8; 4]
        ) {
            prop_assume!(key != [0; 32]);
            let (server, id) = (Server(SecretKey::from(server)), ToxId::new(PublicKey(key), nospam));
            let mut client = Client::new(*server.0.public_key().as_bytes(), secret, counter);
            let request = client.request(&name).expect("the first");
            let query = request.query("x.example").expect("fits");
            let (asked, counter, shared) = server.open_request(&query).expect("ours");
            prop_assert_eq!(asked, name);
            let sealed = server.seal_reply(counter, &shared, &id.octets());
            prop_assert_eq!(client.open(&request, &sealed), Ok(id));
        }

        #[test]
        fn any_octets_are_no_reply(sealed in prop::collection::vec(any::<u8>(), 54)) {
            let mut client = Client::new([9; 32], [1; 32], 0);
            let request = client.request("bob").expect("the first");
            prop_assert_eq!(client.open(&request, &sealed.try_into().expect("54 octets")), Err(OpenError::Forged));
        }
    }
}
