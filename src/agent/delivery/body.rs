//! The body of an incoming mail: decoded, and checked against what its sender announced.

use std::fs::File;
use std::io::{self, Read};

use crate::agent::account::disk_refusal;
use crate::engine::transfer::{Delivery, Digester, Encoding, Source};
use crate::mail::header::MAX_SECTION;
use crate::mail::status::Refusal;

/// The largest zstd window taken: 8 MiB, as `docs/protocol.md` says.
const WINDOW_LOG: u32 = 23;

/// Why a mail did not come to its mailbox.
pub(super) enum Failure {
    /// The encoded body is not what was announced: it must come again from its beginning.
    Damaged(Refusal),
    /// The mailbox does not take it.
    Mailbox(Refusal),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Mailbox(refusal)
    }
}

fn damaged(_: io::Error) -> Failure {
    Failure::Damaged(Refusal::temporary(6, 0, "the mail arrived damaged: send it again"))
}

/// A body that is read once.
pub(super) struct Body<'a> {
    delivery: &'a Delivery,
    octets: io::Take<Box<dyn Read + 'a>>,
    digester: Digester,
    size: u64,
}

impl<'a> Body<'a> {
    /// `partial` is the file of a body that is not in memory.
    pub(super) fn open(delivery: &'a Delivery, partial: impl FnOnce() -> io::Result<File>) -> Result<Self, Refusal> {
        let mut octets: Box<dyn Read + '_> = match &delivery.source {
            Source::Inline(octets) => Box::new(&octets[..]),
            Source::Partial(_) => Box::new(partial().map_err(|error| disk_refusal(&error))?),
        };
        if delivery.encoding == Encoding::Zstd {
            let mut decoder = zstd::stream::read::Decoder::new(octets).map_err(|error| disk_refusal(&error))?;
            decoder.window_log_max(WINDOW_LOG).map_err(|error| disk_refusal(&error))?;
            octets = Box::new(decoder);
        }
        // One octet more than announced is enough to see that it is too long, whatever it would unpack to.
        let octets = octets.take(delivery.size.saturating_add(1));
        Ok(Self { delivery, octets, digester: Digester::default(), size: 0 })
    }

    /// Reads up to and beyond the end of the header section, or up to its greatest length.
    pub(super) fn head(&mut self) -> Result<Vec<u8>, Failure> {
        let head = read_head(&mut self.octets).map_err(damaged)?;
        self.digester.update(&head);
        self.size += head.len() as u64;
        Ok(head)
    }

    /// How many octets are still to come, by the sender's word.
    pub(super) fn left(&self) -> u64 {
        self.delivery.size.saturating_sub(self.size)
    }

    /// Reads the rest. Succeeds only if all that was read is what was announced; what was written must be thrown away else.
    pub(super) fn pour(mut self, mut write: impl FnMut(&[u8]) -> Result<(), Refusal>) -> Result<(), Failure> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = match self.octets.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(error)),
            };
            self.digester.update(&buffer[..length]);
            self.size += length as u64;
            write(&buffer[..length])?;
        }
        if self.size != self.delivery.size || self.digester.finish() != self.delivery.digest {
            let (id, peer) = (self.delivery.id, self.delivery.peer.short());
            log::warn!("mail {id} from {peer} does not match its announced size and digest");
            return Err(damaged(io::ErrorKind::InvalidData.into()));
        }
        Ok(())
    }
}

fn read_head(body: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(8 * 1024);
    let mut piece = [0; 8 * 1024];
    loop {
        let length = match body.read(&mut piece) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let from = head.len().saturating_sub(2);
        head.extend_from_slice(&piece[..length]);
        let ends = |window: &[u8]| window.starts_with(b"\n\n") || window == b"\n\r\n";
        let ended = head[from..].windows(3).any(ends) || head[from..].ends_with(b"\n\n") || head.starts_with(b"\n");
        if length == 0 || ended || head.len() > MAX_SECTION {
            return Ok(head);
        }
    }
}
