//! What is to be changed in files of a mail server, as values: texts in, edits out. Pure.

use similar::TextDiff;

use crate::mail::address::Address;

/// How mail goes from the mail server to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// By its LMTP client.
    Lmtp,
    /// By a tox-transport for each mail.
    Pipe,
}

/// What is wanted of a mail server.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The way.
    pub(super) route: Route,
    /// What goes over Tox besides `tox.alt` (and besides what is in our block already): domains and addresses.
    pub(super) keys: Vec<String>,
    /// The agent's LMTP socket.
    pub(super) socket: String,
    /// Where tox-transport is.
    pub(super) program: String,
}

/// A domain or an address of the command line, as it stands in a transport table.
///
/// # Errors
/// It is neither.
pub(super) fn key(text: &str) -> Result<String, String> {
    let wrong = || format!("`{}` is no domain and no address", text.escape_debug());
    let address: Address =
        if text.contains('@') { text.parse() } else { format!("x@{text}").parse() }.map_err(|_| wrong())?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "@.-_+=".contains(c);
    if !text.chars().all(plain) || !address.domain().contains('.') {
        return Err(wrong());
    }
    Ok(if text.contains('@') { address.lowered().to_string() } else { address.domain().to_owned() })
}

/// One file, before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    /// Its path.
    pub(super) file: String,
    /// What is in it; `None`: it is not there.
    pub(super) before: Option<String>,
    /// What is to be in it; `None`: it goes.
    pub(super) after: Option<String>,
}

impl Edit {
    /// The edit as a unified diff, as diff(1) and patch(1) have it.
    pub(super) fn diff(&self) -> String {
        let name = |side: &Option<String>| if side.is_some() { self.file.as_str() } else { "/dev/null" };
        let text = |side: &Option<String>| side.clone().unwrap_or_default();
        let (before, after) = (text(&self.before), text(&self.after));
        let diff = TextDiff::from_lines(&before, &after);
        diff.unified_diff().header(name(&self.before), name(&self.after)).to_string()
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In the order in which they are to be made; none where all is as it should be.
    pub(super) edits: Vec<Edit>,
    /// Folders of ours, each before those in it: made before the edits, and removed with what undoes them if they are empty.
    pub(super) folders: Vec<String>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

impl Plan {
    /// Adds the edit of `file`, if it is one.
    pub(super) fn edit(&mut self, file: String, before: Option<String>, after: Option<String>) {
        if before != after {
            self.edits.push(Edit { file, before, after });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_is_what_patch_takes() {
        let edit = Edit { file: "/f".into(), before: Some("a\nb\n".into()), after: Some("a\nc\n".into()) };
        assert_eq!(edit.diff(), "--- /f\n+++ /f\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
        let new = Edit { file: "/f".into(), before: None, after: Some("a\n".into()) };
        assert_eq!(new.diff(), "--- /dev/null\n+++ /f\n@@ -0,0 +1 @@\n+a\n");
        let mut plan = Plan::default();
        plan.edit("/f".into(), None, None);
        assert!(plan.edits.is_empty());
    }
    #[test]
    fn keys_are_domains_and_addresses() {
        for (text, expected) in [
            ("Example.NET", Some("example.net")),
            ("Bob@Example.org", Some("bob@example.org")),
            ("a b@example.org", None),
            ("\"a b\"@example.org", None),
            ("localhost", None),
            ("x@localhost", None),
            (".example.org", None),
            ("*", None),
            ("a.b\nc", None),
            ("#a.b", None),
            ("", None),
        ] {
            assert_eq!(key(text).ok().as_deref(), expected, "{text}");
        }
    }
}
