//! A relay on real Tox that misbehaves, for the end-to-end tests: `bad_relay MODE [HOST:PORT:KEY]`.
//!
//! It is the production engine over a shelf in memory, with a layer between that distorts what it keeps or says. HOST, PORT
//! and KEY (hexadecimal) are a bootstrap node's. It prints two lines, its descriptor with an invite (so that who holds it
//! becomes an owner) and `PORT KEY`, by which others can enter the network through it; then it runs until its standard input
//! ends. Every line it reads has it print one more invite. Modes:
//!
//! | mode | what it does |
//! |---|---|
//! | `honest` | everything right |
//! | `drop` | signs STORED and forgets: it lists nothing, and every GET is refused |
//! | `silent` | the same, and answers no GET and no LIST at all |
//! | `full` | refuses every content: the owner's quota is used up |
//! | `swap` | hands out the content of another filled slot of the same class, where there is one |
//! | `truncate` | hands out the first 8 KiB of a content and nothing more |
//! | `corrupt` | hands out contents with one octet changed |
//! | `reorder` | swaps each two packets; the last one waits until there is another |
//! | `replay` | says every answer of this and earlier sessions again, to everybody |
//! | `forge` | signs STORED and GONE wrongly |
//! | `lie` | signs STORED for another content, and GONE for another slot, than was asked for |
//! | `flood` | says a thousand times as much as it is asked for |
//! | `slow` | sends one packet every two seconds |
//! | `foreign` | lists, and says to have arrived, slots that the owner never registered and those of other owners |

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool of the tests")]

#[path = "distort.rs"]
mod distort;
#[path = "tox_relay.rs"]
mod tox_relay;

use std::io::BufRead as _;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use distort::{Distorted, Distorting, MODES, Mode, random};
use tox_relay::{ToxRelay, options};
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::RelaySecret;
use toxmail::relay::server::{Limits, Server};
use toxmail::tox::Tox;

fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let Some((_, mode)) = MODES.into_iter().find(|(name, _)| *name == mode) else {
        let names: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: bad_relay {} [HOST:PORT:KEY]", names.join("|"));
        std::process::exit(2);
    };
    let mut tox = Tox::new(&options(), None).unwrap();
    if let Some(node) = args.next() {
        let mut parts = node.rsplitn(3, ':');
        let key: [u8; 32] = HEXLOWER_PERMISSIVE.decode(parts.next().unwrap().as_bytes()).unwrap().try_into().unwrap();
        let port = parts.next().unwrap().parse().unwrap();
        assert!(tox.bootstrap(parts.next().unwrap(), port, &[], &PublicKey(key)));
    }
    let limits = Limits {
        open: false,
        max_disk: 1 << 30,
        owner_quota: if mode == Mode::Full { 0 } else { 256 << 20 },
        max_owners: 100,
        retention: 30 * 86_400,
    };
    let shelf = Distorted::new(mode);
    let server = Server::new(shelf, RelaySecret::new(&mut random()), limits).unwrap();
    let (port, key) = tox.node().unwrap();
    let mut relay = ToxRelay::new(tox, server);
    if mode == Mode::Slow {
        relay.pace = Duration::from_secs(2);
    }
    let invite = relay.invite(random());
    println!("{}", relay.descriptor().with_invite(&invite));
    println!("{port} {}", HEXLOWER.encode(&key.0));
    let (tell, lines) = channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(|line| line.ok()).try_for_each(|line| tell.send(line))
    });
    let mut layer = Distorting::new(mode);
    loop {
        relay.turn(&mut layer);
        match lines.try_recv() {
            Ok(_) => {
                let invite = relay.invite(random());
                println!("{}", relay.descriptor().with_invite(&invite));
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
    }
}
