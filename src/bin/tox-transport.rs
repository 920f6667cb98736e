//! `tox-transport`: the pipe program of an MTA. It hands one mail from standard input to tox-agent.
//!
//! The module is included by its path, so that this program holds the standard library and nothing else: it starts in
//! about a millisecond and can be linked statically.

#[path = "../transport/mod.rs"]
mod transport;

fn main() {
    transport::main()
}
