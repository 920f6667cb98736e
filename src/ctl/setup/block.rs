//! Lines of ours in a file of somebody else: put in so that they can be found and taken out again, and everything around
//! them stays as it is. Pure.

use blake2::digest::{Update, VariableOutput};

const BEGIN: &str = "# BEGIN toxctl setup ";
const END: &str = "# END toxctl setup";
/// Behind the checksum: the text had no newline at its end, so the one before the block is ours, too.
const JOINED: &str = " (after a line without end)";

/// Why our lines cannot be told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unclear {
    /// The block begins and does not end.
    Open,
    /// There is more than one.
    Several,
    /// It is not as it was written.
    Changed,
}

impl Unclear {
    /// What to tell the user about `file`.
    pub(super) fn told(self, file: &str) -> String {
        match self {
            Self::Open => format!("{file}: the line `{END}` is missing; put it back, or take the lines out by hand"),
            Self::Several => format!("{file}: there are several blocks of toxctl setup; take all but one out by hand"),
            Self::Changed => format!(
                "{file}: the lines between `{}…` and `{END}` were changed by hand; move your own lines out of there, \
                 or take the whole block out by hand",
                BEGIN.trim_end()
            ),
        }
    }
}

fn checksum(body: &str) -> String {
    let mut hash = blake2::Blake2sVar::new(4).expect("4 octets are a valid length");
    hash.update(body.as_bytes());
    let mut octets = [0; 4];
    hash.finalize_variable(&mut octets).expect("the length is as asked");
    data_encoding::HEXLOWER.encode(&octets)
}

/// `text` with a block of `body` (whole lines) at its end. There must be no block yet; an empty body adds nothing.
pub(super) fn put_in(text: &str, body: &str) -> String {
    if body.is_empty() {
        return text.to_owned();
    }
    let joined = !text.is_empty() && !text.ends_with('\n');
    let (newline, mark) = if joined { ("\n", JOINED) } else { ("", "") };
    format!("{text}{newline}{BEGIN}{}{mark}\n{body}{END}\n", checksum(body))
}

/// `text` without our block, and the block's body; no body where there is no block.
///
/// # Errors
/// It is not clear what is ours.
pub(super) fn take_out(text: &str) -> Result<(String, Option<String>), Unclear> {
    let mut lines = text.split_inclusive('\n');
    let (mut before, mut body) = (String::new(), String::new());
    let Some(begin) = lines.by_ref().find_map(|line| {
        let begin = line.trim_end().strip_prefix(BEGIN);
        if begin.is_none() {
            before += line;
        }
        begin
    }) else {
        return Ok((before, None));
    };
    let ended = lines.by_ref().any(|line| {
        let end = line.trim_end() == END;
        if !end {
            body += line;
        }
        end
    });
    let after: String = lines.collect();
    if body.contains(BEGIN) || after.contains(BEGIN) {
        return Err(Unclear::Several);
    }
    if !ended {
        return Err(Unclear::Open);
    }
    let (sum, joined) = match begin.strip_suffix(JOINED) {
        Some(sum) => (sum, true),
        None => (begin, false),
    };
    if sum != checksum(&body) {
        return Err(Unclear::Changed);
    }
    if joined && after.is_empty() {
        before.pop();
    }
    Ok((before + &after, Some(body)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_as_it_was_written_is_left_alone() {
        let good = put_in("a\n", "b\nc\n");
        for (text, expected) in [
            (good.replace("c\n", "c2\n"), Unclear::Changed),
            (good.replace(END, ""), Unclear::Open),
            (format!("{good}{good}"), Unclear::Several),
        ] {
            assert_eq!(take_out(&text), Err(expected), "{text}");
        }
        let moved = format!("{good}d\n");
        assert_eq!(take_out(&moved), Ok(("a\nd\n".into(), Some("b\nc\n".into()))));
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out_and_the_rest_is_as_before(text in "([a-z#= \r\t]{0,9}\n){0,5}[a-z ]{0,3}",
                                                              body in "([a-z= \t]{1,9}\n){1,4}") {
            prop_assert_eq!(take_out(&put_in(&text, &body)), Ok((text, Some(body))));
        }

        #[test]
        fn no_text_confuses_it(text in "(# (BEGIN|END) toxctl setup[ 0-9a-f]{0,10}\n|[a-z]{0,4}\n){0,6}") {
            let _ = take_out(&text);
        }
    }
}
