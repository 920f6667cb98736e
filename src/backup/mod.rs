//! A backup: one file that is a tar(5) archive, encrypted with a passphrase by age (age-encryption.org/v1, scrypt).
//! Anybody who has the passphrase can open it without this program: `age -d FILE | tar -t`.
//!
//! Owns the format ([`archive`], [`manifest`]) and how a restored state comes into its place ([`place`]). Knows no
//! SQLite and nothing else of this library: what is in the database is the store's.

pub mod archive;
pub mod manifest;
pub mod place;
