//! The mail on its way from standard input to the wire: CR LF line ends, dot-stuffing, and whether all of it came.
//!
//! Owns: the encoding of the mail (RFC 5321 section 4.5.2) and the truncation check. May use: nothing of the program.

/// What is read at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// The length of Postfix's records (`line_length_limit`); a longer line is kept in several.
const RECORD: u64 = 2048;
/// What a size may exceed our count by without meaning a cut mail: Postfix's two pointer records of 17 octets that make
/// room for a milter, and the padding of a few very short headers.
const SLACK: u64 = 64;

/// Turns what is read into what is sent. Every LF becomes CR LF, even after a CR, so that a server which takes one CR
/// off before each LF has the exact octets again; a dot at the start of a line is doubled. Memory stays that of one
/// chunk.
pub(super) struct Encoder {
    out: Vec<u8>,
    octets: u64,
    overhead: u64,
    /// The length of the line being read, without its LF.
    line: u64,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { out: Vec::with_capacity(CHUNK + CHUNK / 8), octets: 0, overhead: 0, line: 0 }
    }

    /// Adds what was read.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.octets += data.len() as u64;
        for part in data.split_inclusive(|b| *b == b'\n') {
            if self.line == 0 && part.first() == Some(&b'.') {
                self.out.push(b'.');
            }
            match part.strip_suffix(b"\n") {
                Some(text) => {
                    self.out.extend_from_slice(text);
                    self.out.extend_from_slice(b"\r\n");
                    self.line += text.len() as u64;
                    self.end_line();
                }
                None => {
                    self.out.extend_from_slice(part);
                    self.line += part.len() as u64;
                }
            }
        }
    }

    fn end_line(&mut self) {
        // A record is a type octet, the length in groups of seven bits, and the line without its LF: one octet more
        // than the line with its LF, two from 128 octets on, three for each record of a long line that others follow.
        self.overhead += if self.line < 128 { 1 } else { 2 + 3 * (self.line / RECORD) };
        self.line = 0;
    }

    /// Ends the last line, if it has no end, and the mail: the final dot.
    pub(super) fn finish(&mut self) {
        if self.line > 0 {
            self.out.extend_from_slice(b"\r\n");
            self.end_line();
        }
        self.out.extend_from_slice(b".\r\n");
    }

    /// Whether there is enough to be worth a write.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() >= CHUNK
    }

    /// What is to be sent next.
    pub(super) fn pending(&self) -> &[u8] {
        &self.out
    }

    /// What was pending is sent.
    pub(super) fn sent(&mut self) {
        self.out.clear();
    }

    /// How many octets were read.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether a mail whose size the MTA gave as `size` is all here. Postfix counts the records of its queue file, so
    /// the size is never less than the mail's octets, and more by what its records need; Exim counts octets. Lines that
    /// the MTA adds on the way (`Return-Path`) only make more arrive.
    pub(super) fn is_whole(&self, size: u64) -> bool {
        let open_line = if self.line > 0 { 3 + 3 * (self.line / RECORD) } else { 0 };
        self.octets + self.overhead + open_line + SLACK >= size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(mail: &[u8], chunk: usize) -> Vec<u8> {
        let mut encoder = Encoder::new();
        for part in mail.chunks(chunk) {
            encoder.push(part);
        }
        encoder.finish();
        encoder.pending().to_vec()
    }

    #[test]
    fn lines_and_dots_are_encoded_wherever_the_reads_cut() {
        for (mail, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"\n", b"\r\n.\r\n"),
            (b".\n..\n.a\na.\n", b"..\r\n...\r\n..a\r\na.\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b"a\r\n.\r\n", b"a\r\r\n..\r\r\n.\r\n"),
            (b"\r.\r\n\0\xff\n", b"\r.\r\r\n\0\xff\r\n.\r\n"),
            (b"\r", b"\r\r\n.\r\n"),
        ] {
            for chunk in 1..=mail.len().max(1) {
                assert_eq!(encoded(mail, chunk), wire, "{mail:?} by {chunk}");
            }
        }
    }

    fn whole(mail: &[u8], size: u64) -> bool {
        let mut encoder = Encoder::new();
        encoder.push(mail);
        encoder.is_whole(size)
    }

    #[test]
    fn a_whole_mail_passes_and_a_cut_one_does_not() {
        // As Postfix counted them: short lines, and 50250 octets in nine lines of which one is 50000 long.
        let short: Vec<u8> = [&b"abcd\n".repeat(1007)[..], &[b'x'; 211], b"\n"].concat();
        assert_eq!(short.len(), 5247);
        assert!(whole(&short, 6255));
        let long: Vec<u8> = [&b"x".repeat(50_000)[..], b"\n", &b"h".repeat(241), &b"\n".repeat(8)].concat();
        assert_eq!(long.len(), 50_250);
        assert!(whole(&long, 50_332));
        assert!(!whole(&long[..49_000], 50_332));
        assert!(!whole(&short[..5000], 6255));
        assert!(whole(b"", 0) && !whole(b"", 100));
        // A Return-Path on top makes more arrive than the size says.
        assert!(whole(&[b"Return-Path: <a@x>\n", &short[..]].concat(), 6255));
        // A line of many records may be the last and without its end.
        assert!(whole(&[b'x'; 204_800], 204_800 + 300 + 3));
    }
}
