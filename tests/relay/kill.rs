//! A relay that is killed while it stores, again and again: whatever it has signed for is there afterwards, whatever it said
//! is gone is gone, and no file is left that no row names.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use toxmail::relay::server::shelf::{Shelf as _, State};
use toxmail::relay::wire::Answer;

use crate::world::{SIZE, content, digest, key, limits, on_disk, open, slot};

/// Tells the child where its shelf is, and with which slot it begins.
const FOLDER: &str = "TOXMAIL_TEST_RELAY_KILL";
const FIRST: &str = "TOXMAIL_TEST_RELAY_FIRST";
const KILLS: u64 = 50;
const OWNER: u8 = 1;

fn tell(text: &str) {
    // One write, so that a line is there as a whole or not at all; the test harness writes to standard output, too.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// The child: stores contents, removes every third, and says so as soon as the relay has answered.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let first: u64 = std::env::var(FIRST).expect("told").parse().expect("a number");
    let mut world = on_disk(&folder);
    let mut large = limits();
    (large.max_disk, large.owner_quota) = (u64::MAX, u64::MAX);
    world.server.set_limits(large);
    if world.server.is_client(&key(OWNER)) {
        world.greet(key(OWNER));
    } else {
        world.owner(key(OWNER), None);
    }
    for number in first..first + 5000 {
        let slot = slot(OWNER, number);
        assert_eq!(world.register(key(OWNER), &[&slot]), [Answer::Done(7)]);
        assert!(matches!(
            world.put(key(OWNER), &slot, &content(number as u8)),
            Answer::Arrived(_) | Answer::Stored(..)
        ));
        tell(&format!("stored {number}"));
        if number % 3 == 0 {
            tell(&format!("deleting {number}"));
            assert!(matches!(world.delete(key(OWNER), &slot), Answer::Gone(..)));
            tell(&format!("gone {number}"));
        }
    }
    panic!("nobody has killed this");
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Stored,
    Deleting,
    Gone,
}

#[test]
fn what_a_killed_relay_has_signed_for_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut said: BTreeMap<u64, Said> = BTreeMap::new();
    for kill in 0..KILLS {
        let first = kill * 10_000;
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "kill::child", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(FIRST, first.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut note = |line: String| {
            let (word, number) = line.split_once(' ').expect("two words");
            let what = match word {
                "stored" => Said::Stored,
                "deleting" => Said::Deleting,
                "gone" => Said::Gone,
                _ => panic!("{line}"),
            };
            said.insert(number.parse().expect("a number"), what);
        };
        // At any point of its work, once it does work.
        note(lines.next().expect("it says something").expect("read"));
        std::thread::sleep(Duration::from_micros(kill * 11_173 % 100_000));
        child.kill().expect("killed");
        child.wait().expect("ended");
        lines.map_while(Result::ok).for_each(&mut note);
        check(folder.path(), &said);
    }
    assert!(said.len() as u64 > KILLS, "{} contents were stored", said.len());
    assert!(said.values().any(|said| *said == Said::Gone));
}

fn check(folder: &Path, said: &BTreeMap<u64, Said>) {
    let mut shelf = open(folder);
    for (number, said) in said {
        let slot = slot(OWNER, *number).id();
        let state = shelf.slot(&slot).expect("read").expect("registered").state;
        match (&state, said) {
            (State::Filled { digest: what, .. }, Said::Stored | Said::Deleting) => {
                let octets = content(*number as u8);
                assert_eq!(*what, digest(&octets));
                assert!(shelf.read(&slot, 0, SIZE as usize).expect("read").is_some_and(|read| read == octets));
            }
            (State::Gone(_), Said::Gone | Said::Deleting) => {}
            _ => panic!("{said:?} was said of {number}, which is {state:?}"),
        }
    }
    let filled = shelf.list(&key(OWNER), 0, usize::MAX >> 1).expect("listed").len();
    let files = std::fs::read_dir(folder.join("slots")).expect("listed").count();
    assert_eq!(files, filled, "as many files as contents");
}
