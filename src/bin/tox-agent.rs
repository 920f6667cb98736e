//! `tox-agent`: the daemon. All of it is in [`toxmail::agent`].

use std::process::ExitCode;

fn main() -> ExitCode {
    toxmail::agent::main(std::env::args_os())
}
