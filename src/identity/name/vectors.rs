//! For tests: the vectors of `tests/data/tox-dns-vectors.json`, made by an independent implementation and compared with
//! the C code of `toxdns/toxdns.c` (c-toxcore before 0.2.0) in both directions.

use data_encoding::HEXLOWER_PERMISSIVE;
use serde_json::Value;

/// The whole file.
pub fn all() -> Value {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tox-dns-vectors.json"));
    serde_json::from_str(text).expect("the vectors are JSON")
}

/// The elements of the array `key`.
pub fn list(value: &Value, key: &str) -> Vec<Value> {
    let list = value[key].as_array().cloned().unwrap_or_default();
    assert!(!list.is_empty(), "no {key}");
    list
}

/// The text at `key`.
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().expect(key).to_owned()
}

/// The octets written in hexadecimal at `key`.
pub fn octets(value: &Value, key: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(text(value, key).as_bytes()).expect(key)
}

/// The 32 octets of the key written in hexadecimal at `key`.
pub fn key(value: &Value, key: &str) -> [u8; 32] {
    octets(value, key).try_into().expect(key)
}
