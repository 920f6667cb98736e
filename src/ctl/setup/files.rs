//! The files of a mail server on the disk, and its commands.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::block;
use super::plan::{Edit, Plan};

/// What is appended to a file's name for the copy of how it was before.
const BACKUP: &str = ".before-toxmail";

/// What is in a text file; `None` where there is none.
///
/// # Errors
/// It cannot be read or is not UTF-8; the text names it.
pub(super) fn read(path: &str) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(octets) => {
            String::from_utf8(octets).map(Some).map_err(|_| format!("{path} is not UTF-8: change it by hand"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {path}: {error}")),
    }
}

/// The last `size` octets of a file.
///
/// # Errors
/// It cannot be read.
pub(super) fn end_of(path: &str, size: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(size)))?;
    let mut octets = Vec::new();
    file.take(size).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

/// The copy of `file` as it was before.
pub(super) fn backup(file: &str) -> String {
    format!("{file}{BACKUP}")
}

/// Makes the edits of `plan`, all or none: after a failure what was made is taken back. Keeps a copy of each file that
/// was there, from before the first of our changes.
///
/// # Errors
/// A file is no longer as it was when the plan was made, or a write failed.
pub(super) fn make(plan: &Plan) -> Result<(), String> {
    for edit in &plan.edits {
        if read(&edit.file)? != edit.before {
            return Err(format!("{} was changed meanwhile; nothing was done, try again", edit.file));
        }
    }
    for folder in &plan.folders {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|error| format!("cannot make {folder}: {error}"))?;
    }
    for (done, edit) in plan.edits.iter().enumerate() {
        if let Err(error) = keep(edit).and_then(|()| put(&edit.file, edit.after.as_deref())) {
            let back = take_back(&plan.edits[..=done]);
            let left = back.err().map_or(String::new(), |error| format!("; and could not be taken back: {error}"));
            return Err(format!("cannot change {}: {error}{left}", edit.file));
        }
    }
    Ok(())
}

/// Puts back what was before `edits`, last first.
///
/// # Errors
/// A write failed; the text names the file.
pub(super) fn take_back(edits: &[Edit]) -> Result<(), String> {
    let back = |edit: &Edit| put(&edit.file, edit.before.as_deref()).map_err(|error| format!("{}: {error}", edit.file));
    // One that fails does not keep the others.
    edits.iter().rev().map(back).fold(Ok(()), Result::and)
}

/// Removes what says nothing any more: copies of files that are again what they were, folders of ours that are empty.
pub(super) fn tidy(plan: &Plan) {
    for folder in plan.folders.iter().rev() {
        // It may not be empty.
        let _ = fs::remove_dir(folder);
    }
    for edit in &plan.edits {
        let copy = backup(&edit.file);
        if matches!((fs::read(&edit.file), fs::read(&copy)), (Ok(now), Ok(before)) if now == before) {
            // A copy that stays does no harm.
            let _ = fs::remove_file(copy);
        }
    }
}

/// Copies a file that is to be changed, unless there is a copy already, or nothing in it but our lines.
fn keep(edit: &Edit) -> io::Result<()> {
    let copy = backup(&edit.file);
    let ours = |text: &str| block::take_out(text).is_ok_and(|(rest, _)| rest.is_empty());
    match &edit.before {
        Some(before) if !ours(before) && !Path::new(&copy).exists() => {
            write(Path::new(&copy), before, Some(Path::new(&edit.file)))
        }
        _ => Ok(()),
    }
}

/// Makes `text` the content of `file`, or removes it.
pub(in crate::ctl) fn put(file: &str, text: Option<&str>) -> io::Result<()> {
    // Where the file is a link, what it leads to is changed.
    let path = fs::canonicalize(file).unwrap_or_else(|_| PathBuf::from(file));
    match text {
        Some(text) => write(&path, text, Some(&path)),
        None => match fs::remove_file(&path) {
            Ok(()) => sync_folder(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// Writes `path` so that a crash at any moment leaves the old or the new content. Mode and owner are those of `like`, or
/// 0644 where that is not there.
fn write(path: &Path, text: &str, like: Option<&Path>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or(OsStr::new("file")).to_owned();
    name.push(format!(".toxctl-{}", std::process::id()));
    let beside = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        match like.map(fs::metadata) {
            Some(Ok(like)) => {
                let own = file.metadata()?;
                if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
                    fchown(&file, Some(like.uid()), Some(like.gid()))?;
                }
                file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
            }
            _ => file.set_permissions(Permissions::from_mode(0o644))?,
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.and_then(|()| sync_folder(path))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Runs a command to its end; what it printed.
///
/// # Errors
/// It is not there, or ended with a status other than 0: its words.
pub(super) fn run(program: &str, args: &[&str], stdin: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    // Who became root by su(1) may be without the folders that a mail server's programs are in.
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/bin:/bin");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error: io::Error| format!("cannot run {program}: {error}");
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        match pipe.write_all(stdin.as_bytes()) {
            // Its status says more than that it did not listen.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim().to_owned();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = [text(&output.stderr), text(&output.stdout)].join(" ");
    Err(format!("{program} {}: {} ({})", args.join(" "), words.trim(), output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(file: &Path, before: Option<&str>, after: Option<&str>) -> Edit {
        let text = |side: Option<&str>| side.map(str::to_owned);
        Edit { file: file.display().to_string(), before: text(before), after: text(after) }
    }

    fn plan(edits: Vec<Edit>) -> Plan {
        Plan { edits, ..Plan::default() }
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_copy_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (real, link, new) = (folder.path().join("real"), folder.path().join("link"), folder.path().join("new"));
        fs::write(&real, "a").expect("write");
        fs::set_permissions(&real, Permissions::from_mode(0o640)).expect("chmod");
        std::os::unix::fs::symlink(&real, &link).expect("link");
        let changed = plan(vec![edit(&link, Some("a"), Some("b")), edit(&new, None, Some("n"))]);
        make(&changed).expect("made");
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&real).expect("read"), "b");
        assert_eq!(fs::metadata(&real).expect("metadata").mode() & 0o777, 0o640);
        assert_eq!(fs::metadata(&new).expect("metadata").mode() & 0o777, 0o644);
        let copy = backup(&link.display().to_string());
        assert_eq!(fs::read_to_string(&copy).expect("read"), "a");

        let again = plan(vec![edit(&link, Some("b"), Some("c"))]);
        make(&again).expect("made");
        assert_eq!(fs::read_to_string(&copy).expect("read"), "a", "the copy is of the first time");
        tidy(&again);
        assert!(Path::new(&copy).exists());
        let back = plan(vec![edit(&link, Some("c"), Some("a")), edit(&new, Some("n"), None)]);
        make(&back).expect("made");
        tidy(&back);
        let left: Vec<_> = fs::read_dir(folder.path()).expect("list").map(|e| e.expect("entry").file_name()).collect();
        assert!(left.iter().all(|name| name == "real" || name == "link" || name == "new.before-toxmail"), "{left:?}");
    }

    #[test]
    fn a_change_in_between_stops_all_and_a_failure_takes_back() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (one, two) = (folder.path().join("one"), folder.path().join("none/two"));
        fs::write(&one, "theirs").expect("write");
        let error = make(&plan(vec![edit(&one, Some("a"), Some("b"))])).expect_err("changed");
        assert!(error.contains("was changed meanwhile"), "{error}");
        let error = make(&plan(vec![edit(&one, Some("theirs"), Some("b")), edit(&two, None, Some("c"))]));
        assert!(error.expect_err("no folder").starts_with(&format!("cannot change {}", two.display())));
        assert_eq!(fs::read_to_string(&one).expect("read"), "theirs");
    }

    #[test]
    fn the_words_of_a_command_that_fails_are_told() {
        assert_eq!(run("cat", &[], "x\n"), Ok("x\n".into()));
        let error = run("sh", &["-c", "echo no; exit 3"], "").expect_err("it fails");
        assert!(error.contains("no (exit status: 3)"), "{error}");
        assert!(run("/nonexistent", &[], "").expect_err("none").starts_with("cannot run /nonexistent: "));
    }
}
