//! A DNS server that answers one encrypted query of tox3, for the end-to-end tests: `tox3_server SECRET NAME TOX-ID`.
//!
//! It binds a UDP port of 127.0.0.1, prints `PORT PUBLIC-KEY`, and answers until its standard input ends.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool of the tests")]

use std::io::Read;
use std::net::UdpSocket;

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hickory_resolver::proto::op::{Message, MessageType};
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{RData, Record};
use toxmail::identity::name::base32;
use toxmail::identity::tox_id::ToxId;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().expect("SECRET NAME TOX-ID");
    let secret: [u8; 32] = HEXLOWER_PERMISSIVE.decode(next().as_bytes()).unwrap().try_into().unwrap();
    let (secret, name) = (SecretKey::from(secret), next());
    let id: ToxId = next().parse().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    println!("{} {}", socket.local_addr().unwrap().port(), HEXLOWER.encode(secret.public_key().as_bytes()));
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
            let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
            if let Some(answer) = answer(&query, &secret, &name, &id) {
                let _ = socket.send_to(&answer.to_vec().unwrap(), from);
            }
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// The answer to `_REQUEST._tox.DOMAIN`; no record where another name is asked for.
fn answer(query: &Message, secret: &SecretKey, name: &str, id: &ToxId) -> Option<Message> {
    let question = query.queries.first()?;
    let labels: Vec<Vec<u8>> = question.name().iter().map(<[u8]>::to_vec).collect();
    let end = labels.iter().position(|label| label.eq_ignore_ascii_case(b"_tox"))?;
    let text = String::from_utf8(labels[..end].concat()).ok()?;
    let request = base32::decode(text.strip_prefix('_')?.as_bytes()).ok()?;
    let (counter, rest) = request.split_at_checked(4)?;
    let (client, sealed) = rest.split_at_checked(32)?;
    let shared = SalsaBox::new(&PublicKey::from(<[u8; 32]>::try_from(client).ok()?), secret);
    let mut nonce = [0; 24];
    nonce[..4].copy_from_slice(counter);
    let asked = shared.decrypt(&nonce.into(), sealed).ok()?;
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.authoritative = true;
    answer.add_query(question.clone());
    nonce[4] = 1;
    let reply = match asked == name.as_bytes() {
        true => format!("v=tox3;id={}", base32::encode(&shared.encrypt(&nonce.into(), &id.octets()[..]).ok()?)),
        false => String::new(),
    };
    answer.add_answer(Record::from_rdata(question.name().clone(), 0, RData::TXT(TXT::new(vec![reply]))));
    Some(answer)
}
