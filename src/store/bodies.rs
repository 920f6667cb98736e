//! The encoded bodies: compressed where it helps, in memory while short, else in a file that is fsynced before any row
//! names it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::engine::transfer::{BURST, Digest, Digester, Encoding};

/// zstd level: fast, as most mail is short or already packed.
const LEVEL: i32 = 1;
/// Compression must save at least this share, or the body stays as it is.
const WORTH: f64 = 0.9;
/// Shorter bodies are not worth a frame, in octets.
const SHORTEST: usize = 256;

/// Free octets, for users other than root, of the disk that holds `path`.
///
/// # Errors
/// The system does not tell.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(path)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Makes the folder.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Removes a body file; that it is not there is fine.
pub(super) fn remove(folder: &Path, name: &str) {
    if let Err(error) = fs::remove_file(folder.join(name))
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove the body file {name}: {error}");
    }
}

/// A body ready to be queued.
pub struct EncodedBody {
    /// Octets of the mail.
    pub size: u64,
    /// Octets of the encoded form.
    pub wire_size: u64,
    /// Of the mail.
    pub digest: Digest,
    /// Of the encoded form.
    pub encoding: Encoding,
    /// The encoded form, when it is short.
    pub inline: Option<Vec<u8>>,
    /// The file that holds it otherwise; removed on drop unless [`BodyFile::keep`] was called.
    pub file: Option<BodyFile>,
}

/// A body file that no row names yet.
pub struct BodyFile {
    folder: PathBuf,
    name: String,
    kept: bool,
}

impl BodyFile {
    /// Its name below the folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A row names it now.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.folder, &self.name);
        }
    }
}

enum Sink {
    Memory(Vec<u8>),
    Plain(BufWriter<File>),
    Packed(zstd::stream::write::Encoder<'static, BufWriter<File>>),
}

/// Takes in a mail piece by piece in flat memory, whatever its size.
pub struct BodyWriter {
    folder: PathBuf,
    name: String,
    sink: Sink,
    file: Option<BodyFile>,
    digester: Digester,
    size: u64,
}

impl BodyWriter {
    /// A writer for a new body below `state_dir`; `name` must be unique.
    pub fn new(state_dir: &Path, name: &str) -> Self {
        Self {
            folder: state_dir.join("bodies"),
            name: name.to_owned(),
            sink: Sink::Memory(Vec::new()),
            file: None,
            digester: Digester::default(),
            size: 0,
        }
    }

    /// How much came in so far, in octets.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes in the next piece.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.digester.update(octets);
        self.size += octets.len() as u64;
        match &mut self.sink {
            Sink::Memory(memory) => {
                memory.extend_from_slice(octets);
                if memory.len() as u64 > BURST { self.spill() } else { Ok(()) }
            }
            Sink::Plain(file) => file.write_all(octets),
            Sink::Packed(encoder) => encoder.write_all(octets),
        }
    }

    /// Moves what was kept in memory into a file, compressed if its beginning compresses well.
    fn spill(&mut self) -> io::Result<()> {
        let path = self.folder.join(&self.name);
        let file = OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(path)?;
        self.file = Some(BodyFile { folder: self.folder.clone(), name: self.name.clone(), kept: false });
        let Sink::Memory(memory) = std::mem::replace(&mut self.sink, Sink::Memory(Vec::new())) else { return Ok(()) };
        let probe = zstd::bulk::compress(&memory, LEVEL)?;
        let file = BufWriter::with_capacity(128 * 1024, file);
        self.sink = if (probe.len() as f64) < memory.len() as f64 * WORTH {
            Sink::Packed(zstd::stream::write::Encoder::new(file, LEVEL)?)
        } else {
            Sink::Plain(file)
        };
        match &mut self.sink {
            Sink::Plain(file) => file.write_all(&memory),
            Sink::Packed(encoder) => encoder.write_all(&memory),
            Sink::Memory(_) => Ok(()),
        }
    }

    /// Ends the body. A file and the folder that holds it are fsynced when this returns.
    ///
    /// # Errors
    /// The disk does not take it; nothing is left of it then.
    pub fn finish(self) -> io::Result<EncodedBody> {
        let Self { sink, mut file, digester, size, folder, .. } = self;
        let digest = digester.finish();
        let (encoding, stored) = match sink {
            Sink::Memory(memory) => {
                let packed = if memory.len() >= SHORTEST { Some(zstd::bulk::compress(&memory, LEVEL)?) } else { None };
                let (encoding, octets) = match packed {
                    Some(packed) if (packed.len() as f64) < memory.len() as f64 * WORTH => (Encoding::Zstd, packed),
                    _ => (Encoding::Identity, memory),
                };
                let wire_size = octets.len() as u64;
                return Ok(EncodedBody { size, wire_size, digest, encoding, inline: Some(octets), file: None });
            }
            Sink::Plain(file) => (Encoding::Identity, file.into_inner().map_err(io::IntoInnerError::into_error)?),
            Sink::Packed(encoder) => {
                (Encoding::Zstd, encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?)
            }
        };
        let wire_size = stored.metadata()?.len();
        let mut inline = None;
        if wire_size <= BURST {
            // It compressed so well that it is no bulk mail: kept in the row like any other short one.
            let mut octets = vec![0; wire_size as usize];
            stored.read_exact_at(&mut octets, 0)?;
            inline = Some(octets);
            file = None;
        } else {
            stored.sync_all()?;
            File::open(&folder)?.sync_all()?;
        }
        Ok(EncodedBody { size, wire_size, digest, encoding, inline, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(mail: &[u8], piece: usize) -> (tempfile::TempDir, EncodedBody) {
        let state = tempfile::tempdir().expect("a folder");
        prepare(&state.path().join("bodies")).expect("bodies");
        let mut writer = BodyWriter::new(state.path(), "x");
        for piece in mail.chunks(piece) {
            writer.write(piece).expect("written");
        }
        let body = writer.finish().expect("finished");
        (state, body)
    }

    #[test]
    fn bodies_come_back_whatever_their_size_and_kind() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..400_000).map(|_| next()).collect();
        let text: Vec<u8> = b"The same line again and again.\n".repeat(20_000);
        let base64 = data_encoding::BASE64.encode(&noise).into_bytes();
        for (mail, encoding, in_file) in [
            (&b""[..], Encoding::Identity, false),
            (&noise[..1000], Encoding::Identity, false),
            (&text[..1000], Encoding::Zstd, false),
            (&noise[..], Encoding::Identity, true),
            (&text[..], Encoding::Zstd, false),
            (&base64[..], Encoding::Zstd, true),
        ] {
            for piece in [1000, 70_000] {
                let (state, body) = encode(mail, piece);
                assert_eq!((body.encoding, body.file.is_some()), (encoding, in_file), "{} octets", mail.len());
                let mut digester = Digester::default();
                digester.update(mail);
                assert_eq!((body.size, body.digest), (mail.len() as u64, digester.finish()));
                let octets = match (&body.inline, &body.file) {
                    (Some(octets), None) => octets.clone(),
                    (None, Some(file)) => fs::read(state.path().join("bodies").join(file.name())).expect("read"),
                    _ => panic!("either in memory or in a file"),
                };
                assert_eq!(octets.len() as u64, body.wire_size);
                let back = match body.encoding {
                    Encoding::Identity => octets,
                    Encoding::Zstd => zstd::stream::decode_all(&octets[..]).expect("decodes"),
                };
                assert!(back == mail);
                drop(body);
                assert_eq!(fs::read_dir(state.path().join("bodies")).expect("list").count(), 0, "nothing is left");
            }
        }
    }
}
