//! The mail on the wire (RFC 5321 sections 2.3.8 and 4.5.2). Pure; uses no other module.
//!
//! A line ends by CR LF whether it was stored with LF or CR LF, a dot at its start is doubled, and a CR without LF becomes
//! a blank, as Postfix has it (`cleanup_replace_stray_cr_lf`): some servers would end a line there, and see other lines,
//! or an end of the mail, where we see none ("SMTP smuggling"). Lines are never folded.

/// Turns what is read into what is sent.
#[derive(Debug)]
pub(super) struct Encoder {
    line_start: bool,
    /// The last octet was a CR, which is held back.
    cr: bool,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { line_start: true, cr: false }
    }

    /// Appends the wire form of `octets` to `out`.
    pub(super) fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        let mut rest = octets;
        while let Some(&first) = rest.first() {
            if self.cr && first != b'\n' {
                out.push(b' ');
                self.line_start = false;
            }
            self.cr = first == b'\r';
            match first {
                b'\r' => rest = &rest[1..],
                b'\n' => {
                    out.extend_from_slice(b"\r\n");
                    self.line_start = true;
                    rest = &rest[1..];
                }
                _ => {
                    if self.line_start && first == b'.' {
                        out.push(b'.');
                    }
                    let run = rest.iter().position(|octet| matches!(octet, b'\r' | b'\n')).unwrap_or(rest.len());
                    out.extend_from_slice(&rest[..run]);
                    self.line_start = false;
                    rest = &rest[run..];
                }
            }
        }
    }

    /// Appends the end of the last line, if it has none, and the final dot.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        if self.cr || !self.line_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(mail: &[u8], chunk: usize) -> Vec<u8> {
        let (mut encoder, mut out) = (Encoder::new(), Vec::new());
        mail.chunks(chunk).for_each(|part| encoder.push(part, &mut out));
        encoder.finish(&mut out);
        out
    }

    #[test]
    fn lines_and_dots_are_encoded_wherever_the_reads_cut() {
        for (mail, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\n", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"\n", b"\r\n.\r\n"),
            (b".\n..\r\n.a\na.\n", b"..\r\n...\r\n..a\r\na.\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b"a\r.\r\nMAIL FROM:<>\r\n", b"a .\r\nMAIL FROM:<>\r\n.\r\n"),
            (b"\r.\r\r\n\0\xff\r", b" . \r\n\0\xff\r\n.\r\n"),
            (b"\r", b"\r\n.\r\n"),
        ] {
            for chunk in 1..=mail.len().max(1) {
                let shown = mail.escape_ascii();
                assert_eq!(encoded(mail, chunk).escape_ascii().to_string(), wire.escape_ascii().to_string(), "{shown}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_mail_has_a_false_end(mail in "[\r\n.a]{0,60}", chunk in 1usize..9) {
            let wire = encoded(mail.as_bytes(), chunk);
            let text = String::from_utf8_lossy(&wire);
            let bare = text.replace("\r\n", "");
            prop_assert!(!bare.contains(['\r', '\n']), "{text:?}");
            let lines: Vec<&str> = text.split_terminator("\r\n").collect();
            prop_assert_eq!(lines.iter().position(|line| *line == "."), Some(lines.len() - 1), "{:?}", text);
        }
    }
}
