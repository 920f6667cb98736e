//! The archive inside a backup: no panic, no part that leads out of its folder, and none longer than it says.
#![no_main]

use std::io::{Read, copy, sink};

use libfuzzer_sys::fuzz_target;
use toxmail::backup::archive::{Visit, read_plain};
use toxmail::backup::manifest::{Manifest, Part};

struct Look;

impl Visit for Look {
    fn begin(&mut self, _: &Manifest) -> anyhow::Result<()> {
        Ok(())
    }

    fn part(&mut self, part: Part, size: u64, from: &mut dyn Read) -> anyhow::Result<bool> {
        assert!(!part.name().contains("..") && !part.name().starts_with('/'));
        assert!(copy(from, &mut sink())? <= size);
        Ok(true)
    }
}

fuzz_target!(|octets: &[u8]| {
    let _ = read_plain(octets, &mut Look);
});
