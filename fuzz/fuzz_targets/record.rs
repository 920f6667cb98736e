//! TXT records of DNS through the reader: no panic, no choice by their order, and what is written reads as the same ID.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toxmail::identity::name::{base32, record};

fuzz_target!(|texts: Vec<Vec<u8>>| {
    for text in &texts {
        let _ = record::read(text);
        if let Ok(octets) = base32::decode(text) {
            assert_eq!(octets.len(), text.len() * 5 / 8);
        }
        assert_eq!(base32::decode(base32::encode(text).as_bytes()).as_ref(), Ok(text));
    }
    let answer = record::select(&texts);
    let turned: Vec<&Vec<u8>> = texts.iter().rev().collect();
    match (&answer, record::select(&turned)) {
        // Which of two broken records is told does depend on it.
        (Err(record::SelectError::Invalid(_)), Err(record::SelectError::Invalid(_))) => {}
        (_, turned) => assert_eq!(answer, turned),
    }
    if let Ok(Some(Ok(id))) = answer.map(|record| record.map(|record| record.id())) {
        let again = record::read(record::write(&id).as_bytes()).expect("good").expect("ours");
        assert_eq!(again.id(), Ok(id));
    }
});
