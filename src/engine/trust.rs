//! What is done about a name after a look-up: the rules of `docs/names.md`, "Trust".
//!
//! Of a name the public key is pinned when it is first accepted. From then on only the operator can change it, whatever
//! the DNS says and however it proves it; and no failure of the DNS stops mail to it.

use crate::identity::name::finding::{Finding, Found, Proof};
use crate::identity::tox_id::PublicKey;
use crate::mail::address::Address;
use crate::mail::status::Refusal;

/// After so many look-ups in a row that found nothing, without a proof, a name counts as absent.
pub const DENIALS: u32 = 3;

/// What to do about an answer that DNSSEC does not prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unsigned {
    /// Mail waits until the operator confirms the key.
    #[default]
    Ask,
    /// Trust on first use: the first answer is pinned.
    Tofu,
    /// Mail is returned.
    Refuse,
}

/// Whether mail to a new name makes a contact by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outgoing {
    /// Yes, where the answer is good enough.
    #[default]
    Auto,
    /// Only once the operator has said so.
    Ask,
}

/// What the operator has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// About answers without a proof.
    pub unsigned: Unsigned,
    /// About new names.
    pub outgoing: Outgoing,
}

/// What was known of the name before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The key that was accepted for it.
    pub pinned: Option<PublicKey>,
    /// How many look-ups in a row found nothing, without a proof.
    pub denials: u32,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It still leads to the pinned key. The rest of the Tox ID may be new, and is taken.
    Same(Found),
    /// Accepted: the key is pinned, the contact made, the mail released.
    Pin(Found),
    /// Nothing is pinned, and the operator must say yes before mail goes there. The refusal (of class 4) is what the
    /// mail waits with.
    Ask(Found, Refusal),
    /// It leads to another key than the pinned one: all mail to it waits until the operator accepts the new one.
    Changed(Found, Refusal),
    /// Nothing can be learned now, but the pin holds: mail goes on. The text says what is wrong.
    Keep(String),
    /// Nothing can be learned now, and nothing is pinned: the mail waits (class 4).
    Wait(Refusal),
    /// As [`Verdict::Wait`], because nothing is there; it counts as a denial.
    Denied(Refusal),
    /// The mail is returned (class 5).
    Refuse(Refusal),
}

/// The verdict on what a look-up of `address` found.
pub fn judge(address: &Address, known: &Known, finding: &Finding, policy: &Policy) -> Verdict {
    match (known.pinned, finding) {
        (Some(key), Finding::Found(found)) if found.id.key() == key => Verdict::Same(*found),
        (Some(key), Finding::Found(found)) => Verdict::Changed(*found, changed(address, &key, found)),
        (Some(_), Finding::Nothing { text, .. } | Finding::Failed(text)) => Verdict::Keep(text.clone()),
        (None, Finding::Found(found)) => match (found.proof, policy.unsigned, policy.outgoing) {
            (Proof::Insecure, Unsigned::Refuse, _) => Verdict::Refuse(Refusal::permanent(
                7,
                1,
                format!("{} is not signed with DNSSEC, and unsigned names are refused here", address.domain()),
            )),
            (Proof::Insecure, Unsigned::Ask, _) => Verdict::Ask(*found, unconfirmed(address, found)),
            (_, _, Outgoing::Ask) => Verdict::Ask(*found, unconfirmed(address, found)),
            (_, _, Outgoing::Auto) => Verdict::Pin(*found),
        },
        (None, Finding::Nothing { proved, text }) => {
            if *proved || known.denials + 1 >= DENIALS {
                Verdict::Refuse(Refusal::permanent(1, 1, text.clone()))
            } else {
                Verdict::Denied(Refusal::temporary(1, 1, format!("{text}; not proved, so it is looked up again")))
            }
        }
        (None, Finding::Failed(text)) => Verdict::Wait(Refusal::temporary(4, 3, text.clone())),
    }
}

fn unconfirmed(address: &Address, found: &Found) -> Refusal {
    let key = found.id.key().short();
    let why = match found.proof {
        Proof::Insecure => "found without DNSSEC",
        Proof::Secure => "new here",
    };
    Refusal::temporary(
        7,
        1,
        format!("{address} leads to key {key}..., {why}: waits for the operator (toxctl contact add {address})"),
    )
}

fn changed(address: &Address, pinned: &PublicKey, found: &Found) -> Refusal {
    let (old, new) = (pinned.short(), found.id.key().short());
    Refusal::temporary(
        7,
        1,
        format!(
            "the key of {address} has changed from {old}... to {new}...: all mail to it waits for the operator \
             (toxctl contact accept-key {address})"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::name::finding::{Method, Via};
    use crate::identity::tox_id::ToxId;

    fn found(key: u8, nospam: u8, proof: Proof) -> Finding {
        let id = ToxId::new(PublicKey([key; 32]), [nospam; 4]);
        Finding::Found(Found { id, via: Via::Name, method: Method::Tox1, proof })
    }

    fn kind(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Same(_) => "same".into(),
            Verdict::Pin(_) => "pin".into(),
            Verdict::Ask(_, refusal) => format!("ask {}", refusal.status()),
            Verdict::Changed(_, refusal) => format!("changed {}", refusal.status()),
            Verdict::Keep(_) => "keep".into(),
            Verdict::Wait(refusal) => format!("wait {}", refusal.status()),
            Verdict::Denied(refusal) => format!("denied {}", refusal.status()),
            Verdict::Refuse(refusal) => format!("refuse {}", refusal.status()),
        }
    }

    #[test]
    fn what_a_new_name_needs_depends_on_proof_and_policy() {
        use {Outgoing as O, Unsigned as U};
        let address = "bob@example.org".parse().expect("an address");
        for (proof, unsigned, outgoing, expected) in [
            (Proof::Secure, U::Ask, O::Auto, "pin"),
            (Proof::Secure, U::Refuse, O::Auto, "pin"),
            (Proof::Secure, U::Tofu, O::Auto, "pin"),
            (Proof::Secure, U::Tofu, O::Ask, "ask 4.7.1"),
            (Proof::Insecure, U::Ask, O::Auto, "ask 4.7.1"),
            (Proof::Insecure, U::Ask, O::Ask, "ask 4.7.1"),
            (Proof::Insecure, U::Tofu, O::Auto, "pin"),
            (Proof::Insecure, U::Tofu, O::Ask, "ask 4.7.1"),
            (Proof::Insecure, U::Refuse, O::Auto, "refuse 5.7.1"),
            (Proof::Insecure, U::Refuse, O::Ask, "refuse 5.7.1"),
        ] {
            let policy = Policy { unsigned, outgoing };
            let verdict = judge(&address, &Known::default(), &found(1, 1, proof), &policy);
            assert_eq!(kind(&verdict), expected, "{proof:?} {policy:?}");
        }
    }

    #[test]
    fn a_pinned_key_is_never_replaced_and_no_failure_stops_its_mail() {
        let address = "bob@example.org".parse().expect("an address");
        let known = Known { pinned: Some(PublicKey([1; 32])), denials: 9 };
        let nothing = |proved| Finding::Nothing { proved, text: "gone".into() };
        for unsigned in [Unsigned::Ask, Unsigned::Tofu, Unsigned::Refuse] {
            for outgoing in [Outgoing::Auto, Outgoing::Ask] {
                for (finding, expected) in [
                    (found(1, 2, Proof::Secure), "same"),
                    (found(1, 2, Proof::Insecure), "same"),
                    (found(2, 1, Proof::Secure), "changed 4.7.1"),
                    (found(2, 1, Proof::Insecure), "changed 4.7.1"),
                    (nothing(true), "keep"),
                    (nothing(false), "keep"),
                    (Finding::Failed("SERVFAIL".into()), "keep"),
                ] {
                    let verdict = judge(&address, &known, &finding, &Policy { unsigned, outgoing });
                    assert_eq!(kind(&verdict), expected, "{finding:?}");
                }
            }
        }
    }

    #[test]
    fn only_a_proof_or_repetition_makes_a_name_absent() {
        let address = "bob@example.org".parse().expect("an address");
        let after = |denials, finding: &Finding| {
            kind(&judge(&address, &Known { pinned: None, denials }, finding, &Policy::default()))
        };
        let nothing = |proved| Finding::Nothing { proved, text: "no such name".into() };
        assert_eq!(after(0, &nothing(true)), "refuse 5.1.1");
        assert_eq!(after(0, &nothing(false)), "denied 4.1.1");
        assert_eq!(after(DENIALS - 2, &nothing(false)), "denied 4.1.1");
        assert_eq!(after(DENIALS - 1, &nothing(false)), "refuse 5.1.1");
        for denials in [0, DENIALS] {
            assert_eq!(after(denials, &Finding::Failed("timeout".into())), "wait 4.4.3");
        }
    }
}
