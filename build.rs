//! Finds Debian's libtoxcore (with its encryptsave part) by pkg-config.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Err(error) = pkg_config::Config::new().atleast_version("0.2.18").probe("toxcore") {
        eprintln!("toxmail needs libtoxcore 0.2.18 or newer: apt-get install libtoxcore-dev pkg-config\n{error}");
        std::process::exit(1);
    }
}
