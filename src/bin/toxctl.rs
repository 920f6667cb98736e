//! `toxctl`: manages a running tox-agent. All of it is in [`toxmail::ctl`].

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(toxmail::ctl::run(std::env::args_os(), &mut io::stdout().lock(), &mut io::stderr().lock()))
}
