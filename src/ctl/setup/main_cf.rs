//! The text of Postfix's main.cf: parameters and lists in it (postconf(5), "file format"). Pure.

use std::ops::Range;

/// The value of the last definition of `name` in `text`, which is the one that counts: from behind its `=` to the end of
/// its last line.
fn definition(text: &str, name: &str) -> Option<Range<usize>> {
    let mut found = None;
    let (mut at, mut inside) = (0, false);
    for line in text.split_inclusive('\n') {
        let end = at + line.trim_end_matches(['\n', '\r']).len();
        let skipped = line.trim().is_empty() || line.trim_start().starts_with('#');
        if skipped {
            // Neither ends a definition nor belongs to it.
        } else if line.starts_with(|c: char| c.is_ascii_whitespace()) {
            // Goes on with the line before.
            if let (true, Some(Range { end: last, .. })) = (inside, &mut found) {
                *last = end;
            }
        } else {
            let equals = line.find('=');
            inside = equals.is_some_and(|equals| line[..equals].trim_end() == name);
            if let (true, Some(equals)) = (inside, equals) {
                found = Some(at + equals + 1..end);
            }
        }
        at += line.len();
    }
    found
}

/// Whether `text` defines `name`.
pub(super) fn defines(text: &str, name: &str) -> bool {
    definition(text, name).is_some()
}

/// The elements of the list `name`, and where in `text` each stands; empty where it is not defined.
fn elements(text: &str, name: &str) -> Vec<Range<usize>> {
    let Some(value) = definition(text, name) else { return Vec::new() };
    let mut found = Vec::new();
    let mut at = value.start;
    for line in text[value].split_inclusive('\n') {
        if !line.trim_start().starts_with('#') {
            let mut from = at;
            for word in line.split_inclusive(|c: char| c == ',' || c.is_ascii_whitespace()) {
                let length = word.trim_end_matches(|c: char| c == ',' || c.is_ascii_whitespace()).len();
                if length > 0 {
                    found.push(from..from + length);
                }
                from += word.len();
            }
        }
        at += line.len();
    }
    found
}

/// Whether the list `name` has `entry`.
pub(super) fn lists(text: &str, name: &str, entry: &str) -> bool {
    elements(text, name).into_iter().any(|element| &text[element] == entry)
}

/// `text` with `entry` in front of the list `name`, which must be defined: what stands first is asked first.
pub(super) fn list_with(text: &str, name: &str, entry: &str) -> String {
    let Some(value) = definition(text, name) else { return text.to_owned() };
    let comma = if text[value.clone()].trim().is_empty() { "" } else { "," };
    format!("{} {entry}{comma}{}", &text[..value.start], &text[value.start..])
}

/// `text` without `entry` in the list `name`: exactly as before [`list_with`].
pub(super) fn list_without(text: &str, name: &str, entry: &str) -> String {
    let Some(value) = definition(text, name) else { return text.to_owned() };
    let Some(found) = elements(text, name).into_iter().find(|element| &text[element.clone()] == entry) else {
        return text.to_owned();
    };
    let mut cut = found;
    if text[cut.end..].starts_with(',') {
        cut.end += 1;
    } else if text[value.start..cut.start].trim_end().ends_with(',') {
        // The last one: the comma before it goes instead.
        cut.start = value.start + text[value.start..cut.start].trim_end().len() - 1;
        return format!("{}{}", &text[..cut.start], &text[cut.end..]);
    }
    if text[value.start..cut.start].ends_with([' ', '\t']) {
        cut.start -= 1;
    }
    format!("{}{}", &text[..cut.start], &text[cut.end..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "transport_maps";
    const OURS: &str = "texthash:/x";

    #[test]
    fn the_last_definition_counts_with_its_continuation() {
        let text =
            "transport_maps = a\n#transport_maps = no\nother = 1\ntransport_maps=hash:b,\n# c\n\n   hash:d\nz=2\n";
        assert_eq!(&text[definition(text, NAME).expect("it is there")], "hash:b,\n# c\n\n   hash:d");
        assert!(lists(text, NAME, "hash:d") && lists(text, NAME, "hash:b"));
        assert!(!lists(text, NAME, "a") && !lists(text, NAME, "c") && !lists(text, NAME, "hash"));
        assert!(!defines(text, "transport"));
        assert!(!defines("x = 1\n transport_maps = 2\n", NAME));
    }

    #[test]
    fn an_entry_is_found_wherever_it_was_moved_to() {
        for (before, after) in [
            ("transport_maps = a, texthash:/x\n", "transport_maps = a\n"),
            ("transport_maps = a texthash:/x\n", "transport_maps = a\n"),
            ("transport_maps = a, texthash:/x, b\n", "transport_maps = a, b\n"),
            ("transport_maps =\n  a,\n  texthash:/x\n", "transport_maps =\n  a\n"),
            ("transport_maps=texthash:/x\n", "transport_maps=\n"),
            ("transport_maps = texthash:/xy\n", "transport_maps = texthash:/xy\n"),
            ("x = texthash:/x\n", "x = texthash:/x\n"),
        ] {
            assert_eq!(list_without(before, NAME, OURS), after, "{before}");
        }
    }

    proptest! {
        #[test]
        fn taking_out_leaves_what_was_before(value in "([a-z:/, \t]|\n[ \t]+|\n[ \t]*#[a-z ]*\n[ \t]+){0,12}",
                                             rest in "(\n[a-z]+ *=[a-z ]*|\n#[a-z]*|\n){0,3}\n?",
                                             equals in " *=") {
            let text = format!("a = b\n{NAME}{equals}{value}{rest}");
            prop_assume!(!rest.contains("transport_maps"));
            let with = list_with(&text, NAME, OURS);
            prop_assert!(lists(&with, NAME, OURS));
            prop_assert_eq!(list_without(&with, NAME, OURS), text);
        }
    }
}
