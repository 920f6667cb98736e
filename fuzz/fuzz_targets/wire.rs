//! Octets of a peer through the codec: no panic, and what was read survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toxmail::engine::wire::{Frame, Frames, Hello};

fuzz_target!(|octets: &[u8]| {
    if let Some(Ok(hello)) = Hello::from_packet(octets) {
        assert_eq!(Hello::from_packet(&hello.to_packet()).expect("ours").expect("well formed"), hello);
    }
    for frame in Frames::new(octets).flatten() {
        let mut again = Vec::new();
        frame.encode(&mut again);
        let read: Vec<_> = Frames::new(&again).map(|frame| frame.expect("well formed")).collect();
        assert_eq!(read, [frame] as [Frame<'_>; 1]);
    }
});
