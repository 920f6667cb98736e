//! Any text as a configuration: no panic, and errors that name the file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = toxmail::config::parse(text, Path::new("/etc/tox-agent/tox-agent.toml")) {
        assert!(error.to_string().contains("tox-agent.toml"));
    }
});
