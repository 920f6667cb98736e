//! The quota of a Maildir, as Maildir++ keeps it in the file `maildirsize`
//! (<https://www.courier-mta.org/imap/README.maildirquota.html>): the first line is the limit (`1000000S,500C`), each
//! further one what was added or removed (`OCTETS MAILS`). Where the file is not there, there is no quota.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::at;

/// The name of the file, in the Maildir's root.
const FILE: &str = "maildirsize";
/// From this size on, in octets, the file is made anew.
const MAX_FILE: u64 = 5120;
/// From this age on a file that says "over quota" is not believed, as mails may have been removed by whoever does not
/// keep it.
const OLD: Duration = Duration::from_secs(15 * 60);

/// The limit as the first line tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Limit {
    octets: Option<u64>,
    mails: Option<u64>,
}

/// What is in a Maildir.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    octets: u64,
    mails: u64,
}

impl Limit {
    /// A limit of 0 is none; letters that others may have added are left alone.
    fn read(line: &str) -> Self {
        let mut limit = Self::default();
        for word in line.trim().split(',') {
            let (number, kind) = word.split_at(word.len() - word.chars().next_back().map_or(0, char::len_utf8));
            let number = number.parse().ok().filter(|number| *number > 0);
            match kind {
                "S" => limit.octets = number,
                "C" => limit.mails = number,
                _ => {}
            }
        }
        limit
    }

    /// Whether one mail more of `octets` is too much.
    fn forbids(&self, used: Usage, octets: u64) -> bool {
        self.octets.is_some_and(|most| used.octets.saturating_add(octets) > most)
            || self.mails.is_some_and(|most| used.mails.saturating_add(1) > most)
    }
}

/// Whether a mail of `octets` may be added to the Maildir at `root`. Counts its mails anew if the file is too large or, by
/// now, too old to be believed.
///
/// # Errors
/// The file is there and cannot be read, or the mails have to be counted and cannot be.
pub(super) fn admits(root: &Path, octets: u64, now: SystemTime) -> io::Result<bool> {
    let path = root.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(at(&path)(error)),
    };
    let mut text = Vec::new();
    (&file).take(MAX_FILE + 1).read_to_end(&mut text).map_err(at(&path))?;
    let modified = file.metadata().and_then(|metadata| metadata.modified()).map_err(at(&path))?;
    let whole = text.len() as u64 <= MAX_FILE;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let limit = Limit::read(first);
    if limit == Limit::default() {
        return Ok(true);
    }
    let (mut sum, mut changes) = ((0i64, 0i64), 0);
    for line in lines {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<i64>().unwrap_or(0));
        sum.0 = sum.0.saturating_add(numbers.next().unwrap_or(0));
        sum.1 = sum.1.saturating_add(numbers.next().unwrap_or(0));
        changes += 1;
    }
    let used = Usage { octets: u64::try_from(sum.0).unwrap_or(0), mails: u64::try_from(sum.1).unwrap_or(0) };
    let over = limit.forbids(used, octets);
    // One line alone is a count that was just made; so is what the clock says is young.
    let old = now.duration_since(modified).is_ok_and(|age| age >= OLD);
    if whole && !(over && (changes != 1 || old)) {
        return Ok(!over);
    }
    let used = count(root)?;
    replace(root, first, used)?;
    Ok(!limit.forbids(used, octets))
}

/// Notes that a mail of `octets` was added. Where no quota is kept nothing is done.
///
/// # Errors
/// The file is there and cannot be written.
pub(super) fn added(root: &Path, octets: u64) -> io::Result<()> {
    let path = root.join(FILE);
    let file = fs::OpenOptions::new().append(true).open(&path);
    // One write, so that lines of several programs never mix.
    match file.and_then(|mut file| file.write_all(format!("{octets} 1\n").as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at(&path)),
    }
}

/// Counts the mails of all folders but `.Trash`, and of those no mail that is flagged as trashed: so the specification.
fn count(root: &Path) -> io::Result<Usage> {
    let mut folders = vec![root.to_owned()];
    for entry in fs::read_dir(root).map_err(at(root))? {
        let entry = entry.map_err(at(root))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") && name != ".Trash" && entry.path().join("cur").is_dir() {
            folders.push(entry.path());
        }
    }
    let mut used = Usage::default();
    for folder in folders.iter().flat_map(|folder| [folder.join("new"), folder.join("cur")]) {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(at(&folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(at(&folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let trashed = name.rsplit_once(":2,").is_some_and(|(_, flags)| flags.contains('T'));
            if name.starts_with('.') || trashed {
                continue;
            }
            let octets = match told_size(&name) {
                Some(octets) => octets,
                None => match entry.metadata() {
                    Ok(metadata) => metadata.len(),
                    // Moved or removed by its reader meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(at(&entry.path())(error)),
                },
            };
            used.octets = used.octets.saturating_add(octets);
            used.mails += 1;
        }
    }
    Ok(used)
}

/// The size that the name of a mail tells: `,S=412`.
fn told_size(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once(",S=")?;
    rest.split([',', ':']).next()?.parse().ok()
}

/// Makes the file anew, whole or not at all. Needs no fsync: it is made again when it is missing or wrong.
fn replace(root: &Path, first: &str, used: Usage) -> io::Result<()> {
    let path: PathBuf =
        root.join("tmp").join(format!("{FILE}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| write!(file, "{first}\n{} {}\n", used.octets, used.mails));
    written.and_then(|()| fs::rename(&path, root.join(FILE))).map_err(at(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maildir() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("tempdir");
        let root = directory.path().to_owned();
        for folder in ["tmp", "new", "cur", ".Sent/new", ".Sent/cur", ".Trash/cur", "..x"] {
            fs::create_dir_all(root.join(folder)).expect("mkdir");
        }
        (directory, root)
    }

    fn kept(root: &Path) -> String {
        fs::read_to_string(root.join(FILE)).expect("maildirsize")
    }

    #[test]
    fn without_the_file_there_is_no_quota() {
        let (_directory, root) = maildir();
        assert!(admits(&root, u64::MAX, SystemTime::now()).expect("admits"));
        added(&root, 5).expect("added");
        assert!(!root.join(FILE).exists());
    }

    #[test]
    fn what_is_added_counts() {
        let (_directory, root) = maildir();
        fs::write(root.join(FILE), "100S,3C\n50 1\n-20 -1\n").expect("write");
        let now = SystemTime::now();
        assert!(admits(&root, 70, now).expect("admits"));
        added(&root, 70).expect("added");
        assert_eq!(kept(&root), "100S,3C\n50 1\n-20 -1\n70 1\n");
        for (text, octets, admitted) in [
            ("100S\n30 1\n", 70, true),
            ("100S\n30 1\n", 71, false),
            ("0S,2C\n9999 1\n", 9999, true),
            ("0S,2C\n9999 2\n", 1, false),
            ("garbage\n1 1\n", 1, true),
            ("", 1, true),
            ("100S\n-5 -1\n", 100, true),
        ] {
            fs::write(root.join(FILE), text).expect("write");
            assert_eq!(admits(&root, octets, now).expect("admits"), admitted, "{text:?}");
            assert_eq!(kept(&root), text);
        }
    }

    #[test]
    fn mails_are_counted_before_a_doubtful_file_refuses() {
        let (_directory, root) = maildir();
        for (name, octets) in [
            ("new/1.host", 10),
            ("cur/2.host,S=500:2,S", 1),
            ("cur/3.host:2,ST", 1000),
            (".Sent/cur/4.host:2,", 7),
            (".Trash/cur/5.host:2,", 1000),
            ("tmp/6.host", 1000),
        ] {
            fs::write(root.join(name), vec![b'x'; octets]).expect("write");
        }
        let now = SystemTime::now();
        let long = "1000S\n".to_owned() + &"1 0\n".repeat(2000);
        for (text, now) in [("1000S\n900 9\n90 1\n", now), ("1000S\n990 9\n", now + 2 * OLD), (&long, now)] {
            fs::write(root.join(FILE), text).expect("write");
            assert!(admits(&root, 483, now).expect("admits"));
            assert_eq!(kept(&root), "1000S\n517 3\n");
            assert!(!admits(&root, 484, now).expect("admits"));
        }
        // A young count is believed as it is.
        fs::write(root.join(FILE), "1000S\n990 9\n").expect("write");
        assert!(!admits(&root, 11, now).expect("admits"));
        assert_eq!(kept(&root), "1000S\n990 9\n");
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_read_without_panic(text in "[0-9SC, \n-]{0,80}|\\PC{0,40}", octets in 0u64..1000) {
            let (_directory, root) = maildir();
            fs::write(root.join(FILE), text).expect("write");
            let _ = admits(&root, octets, SystemTime::now());
        }
    }
}
