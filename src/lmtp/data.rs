//! The DATA phase (RFC 5321 sections 4.1.1.4 and 4.5.2): a streaming decoder from the octets on the wire to those of
//! the mail. Pure; uses no other module.
//!
//! Only CRLF.CRLF ends the mail and only after a CRLF does a dot count as stuffed. A bare LF or CR is body and begins
//! no line, so no two servers in a row can disagree about where a mail ends ("SMTP smuggling").

/// The most octets handed on at a time, here and to [`super::Intake::write`].
pub const MAX_CHUNK: usize = 64 * 1024;

/// Where in a line the decoder stands; what it holds back is what the state says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Directly after a CRLF, or at the very beginning.
    LineStart,
    /// After a dot at the start of a line, which is dropped whatever follows.
    Dot,
    /// After dot and CR at the start of a line; the CR is held back.
    DotCr,
    /// Within a line.
    Text,
    /// Within a line after a CR, which is held back.
    Cr,
    /// After CRLF.CRLF.
    End,
}

/// Decodes one mail; feed it until [`Decoder::ended`].
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder before the first octet after the 354.
    pub const fn new() -> Self {
        Self { state: State::LineStart }
    }

    /// Whether the final dot has been seen.
    pub fn ended(&self) -> bool {
        self.state == State::End
    }

    /// Takes octets from the wire, appends those of the mail to `out` (at most `input.len() + 1`), and returns how many
    /// it took: all, or those up to and with the final CRLF.CRLF. After the end it takes none.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while let Some(&octet) = input.get(at) {
            self.state = match (self.state, octet) {
                (State::End, _) => return at,
                (State::LineStart, b'.') => State::Dot,
                (State::Dot, b'\r') => State::DotCr,
                (State::DotCr, b'\n') => State::End,
                (State::Cr, b'\n') => {
                    out.push(b'\n');
                    State::LineStart
                }
                // Two CRs: the first one is bare, the second may belong to a CRLF.
                (State::Cr | State::DotCr, b'\r') => {
                    out.push(b'\r');
                    State::Cr
                }
                (State::LineStart | State::Text, b'\r') => State::Cr,
                (held, _) => {
                    if matches!(held, State::Cr | State::DotCr) {
                        out.push(b'\r');
                    }
                    // From here to the next CR nothing can happen, so it goes through in one piece.
                    let rest = &input[at..];
                    let run = rest.iter().position(|&octet| octet == b'\r').unwrap_or(rest.len());
                    out.extend_from_slice(&rest[..run]);
                    at += run;
                    self.state = State::Text;
                    continue;
                }
            };
            at += 1;
        }
        at
    }
}

/// The wire form of `body` with the final dot: what a client sends after the 354. Each LF becomes CRLF; a last line
/// without its LF gets one.
pub fn encode(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(body.len() + body.len() / 32 + 5);
    for line in body.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(wire: &[u8]) -> (Vec<u8>, usize, bool) {
        let (mut decoder, mut out) = (Decoder::new(), Vec::new());
        let used = decoder.feed(wire, &mut out);
        (out, used, decoder.ended())
    }

    #[test]
    fn only_crlf_dot_crlf_ends() {
        for (wire, body, rest) in [
            (&b".\r\n"[..], &b""[..], 0),
            (b"a\r\n.\r\nQUIT\r\n", b"a\n", 6),
            (b"..\r\n...\r\n.a\r\n.\r\n", b".\n..\na\n", 0),
            (b"a\n.\nb\n.\r\nc\r\n.\n.\r\n\r\n.\r\n", b"a\n.\nb\n.\nc\n\n.\n\n", 0),
            (b"a\r.\r\nb\r.\rc\r\r\n.\r\r\n.\rx\r\n.\r\n", b"a\r.\nb\r.\rc\r\n\r\n\rx\n", 0),
            (b"\r\n\n.\r\n\0\xff\r\n.\r\n", b"\n\n.\n\0\xff\n", 0),
        ] {
            assert_eq!(decode(wire), (body.to_vec(), wire.len() - rest, true), "{:?}", wire.escape_ascii().to_string());
        }
        for wire in [&b""[..], b".", b".\r", b"a\r\n.\r", b"a\n.\n", b"a\n.\r\n", b"a\r\n.\n", b"a\r.\r", b"a.\r\n"] {
            assert!(!decode(wire).2, "{:?}", wire.escape_ascii().to_string());
        }
    }

    #[test]
    fn nothing_is_taken_after_the_end() {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        assert_eq!(decoder.feed(b".\r\n", &mut out), 3);
        assert_eq!(decoder.feed(b"abc", &mut out), 0);
        assert!(out.is_empty() && decoder.ended());
    }

    /// Bodies made mostly of the octets that matter.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'.'), Just(b'a'), any::<u8>()];
        prop::collection::vec(octet, 0..200)
    }

    proptest! {
        #[test]
        fn any_body_survives_any_chunking(body in body(), sizes in prop::collection::vec(1usize..9, 1..40)) {
            let mut wire = encode(&body);
            let length = wire.len();
            wire.extend_from_slice(b"MAIL FROM:<>\r\n");
            let (mut decoder, mut out, mut at) = (Decoder::new(), Vec::new(), 0);
            for size in sizes.iter().cycle() {
                let chunk = &wire[at..(at + size).min(wire.len())];
                let before = out.len();
                at += decoder.feed(chunk, &mut out);
                prop_assert!(out.len() - before <= chunk.len() + 1);
                if decoder.ended() {
                    break;
                }
            }
            prop_assert_eq!(at, length);
            let mut expected = body;
            if expected.last().is_some_and(|&octet| octet != b'\n') {
                expected.push(b'\n');
            }
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn any_wire_decodes_alike_in_one_piece_and_in_octets(wire in body()) {
            let (mut decoder, mut out, mut used) = (Decoder::new(), Vec::new(), 0);
            for octet in &wire {
                used += decoder.feed(std::slice::from_ref(octet), &mut out);
            }
            prop_assert_eq!(decode(&wire), (out, used, decoder.ended()));
        }
    }
}
