//! What a changed configuration means for an agent that runs: what it takes on, and what waits for a restart.

use super::{Account, Config};

/// A configuration read again, compared with the one in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is in force from now on: the new file's values, and the old ones of what needs a restart.
    pub config: Config,
    /// Keys whose new values are taken on.
    pub applied: Vec<String>,
    /// Keys whose new values need a restart.
    pub restart: Vec<String>,
}

/// Compares the configuration in force with the file's as it was read now. Links and sockets stay as they are: what
/// they were made with needs a restart, and so do accounts and mailboxes that come, go or move.
pub fn compare(running: &Config, read: Config) -> Change {
    let mut new = read;
    let mut lists = Lists::default();
    macro_rules! restart {
        ($($key:literal $($field:ident).+),+ $(,)?) => {$(
            lists.keep($key, &running.$($field).+, &mut new.$($field).+);
        )+};
    }
    macro_rules! applied {
        ($($key:literal $($field:ident).+),+ $(,)?) => {$(
            lists.take($key, &running.$($field).+, &new.$($field).+);
        )+};
    }
    restart! {
        "state_dir" state_dir,
        "hostname" hostname,
        "lmtp.socket" lmtp.socket,
        "lmtp.mode" lmtp.mode,
        "lmtp.group" lmtp.group,
        "control" control,
        "log.syslog" log.syslog,
        "log.stderr" log.stderr,
        "queue.notices" queue.notices,
        "tox.udp" tox.udp,
        "tox.ipv6" tox.ipv6,
        "tox.lan_discovery" tox.lan_discovery,
        "tox.port_range" tox.port_range,
        "tox.tcp_relay_port" tox.tcp_relay_port,
        "tox.proxy" tox.proxy,
        "tox.private" tox.private,
        "relay.enabled" relay.enabled,
    }
    if new.tox.proxy.is_some() && new.names.lookup {
        // The file that allows look-ups has no proxy any more, but until the restart there is one to go past.
        lists.keep("names.lookup", &running.names.lookup, &mut new.names.lookup);
    }
    applied! {
        "lmtp.allow_users" lmtp.allow_users,
        "lmtp.max_size" lmtp.max_size,
        "lmtp.max_recipients" lmtp.max_recipients,
        "lmtp.max_connections" lmtp.max_connections,
        "lmtp.timeout" lmtp.timeout,
        "log.level" log.level,
        "queue.expire" queue.expire,
        "queue.retry_min" queue.retry_min,
        "queue.retry_max" queue.retry_max,
        "queue.delay_notice" queue.delay_notice,
        "queue.relay_after" queue.relay_after,
        "queue.max_disk" queue.max_disk,
        "delivery.max_size" delivery.max_size,
        "delivery.min_free" delivery.min_free,
        "tox.bootstrap" tox.bootstrap,
        "relay.open" relay.open,
        "relay.offer" relay.offer,
        "relay.max_disk" relay.max_disk,
        "relay.owner_quota" relay.owner_quota,
        "relay.max_owners" relay.max_owners,
        "relay.retention" relay.retention,
        "names.lookup" names.lookup,
        "names.resolver" names.resolver,
        "names.trust_anchor" names.trust_anchor,
        "names.timeout" names.timeout,
        "names.unsigned" names.policy.unsigned,
        "names.outgoing" names.policy.outgoing,
        "names.incoming" names.incoming,
        "names.refresh" names.refresh,
        "names.allow_toxme" names.allow_toxme,
        "names.domain" names.domains,
    }
    new.accounts = accounts(&running.accounts, new.accounts, &mut lists);
    Change { config: new, applied: lists.applied, restart: lists.restart }
}

#[derive(Default)]
struct Lists {
    applied: Vec<String>,
    restart: Vec<String>,
}

impl Lists {
    fn keep<T: PartialEq + Clone>(&mut self, key: &str, running: &T, read: &mut T) {
        if *running != *read {
            self.restart.push(key.to_owned());
            *read = running.clone();
        }
    }

    fn take<T: PartialEq>(&mut self, key: &str, running: &T, read: &T) {
        if *running != *read {
            self.applied.push(key.to_owned());
        }
    }
}

/// The accounts in the order in which they run, as are their mailboxes, whose numbers mails under way hold. Where some
/// of that cannot be changed all stays as it is: an address or a Maildir must not belong to two of them.
fn accounts(running: &[Account], read: Vec<Account>, lists: &mut Lists) -> Vec<Account> {
    let named = |accounts: &[Account], name: &str| accounts.iter().find(|account| account.name == name).cloned();
    let before = lists.restart.len();
    for account in &read {
        if named(running, &account.name).is_none() {
            lists.restart.push(format!("new account `{}`", account.name));
        }
    }
    let mut merged = Vec::new();
    let mut applied = Vec::new();
    for old in running {
        let name = &old.name;
        let Some(mut new) = named(&read, name) else {
            lists.restart.push(format!("account `{name}` is gone"));
            continue;
        };
        let mut keep = |what: &str, same: bool| {
            if !same {
                lists.restart.push(format!("account `{name}`: {what}"));
            }
        };
        keep("the way of its mail", old.way == new.way);
        keep("passphrase", old.passphrase == new.passphrase);
        let mut mailboxes = Vec::new();
        for mailbox in &old.mailboxes {
            match new.mailboxes.iter().position(|other| other.name == mailbox.name) {
                Some(at) => mailboxes.push(new.mailboxes.remove(at)),
                None => keep(&format!("mailbox `{}` is gone", mailbox.name), false),
            }
            if let Some(other) = mailboxes.last().filter(|other| other.name == mailbox.name) {
                keep(&format!("the way of mailbox `{}`", mailbox.name), other.way == mailbox.way);
            }
        }
        mailboxes.append(&mut new.mailboxes);
        new.mailboxes = mailboxes;
        let mut take = |what: &str, same: bool| {
            if !same {
                applied.push(format!("account `{name}`: {what}"));
            }
        };
        take("addresses", old.addresses == new.addresses);
        take("senders", old.senders == new.senders);
        take("relays", old.relays == new.relays);
        take("receipts", (old.receipts, old.receipt_delay) == (new.receipts, new.receipt_delay));
        take("relay_poll", old.relay_poll == new.relay_poll);
        let shown = |account: &Account| -> Vec<_> {
            account.mailboxes.iter().map(|mailbox| (mailbox.name.clone(), mailbox.addresses.clone())).collect()
        };
        take("mailbox", shown(old) == shown(&new));
        merged.push(new);
    }
    if lists.restart.len() > before {
        // What else has changed of them waits, too.
        lists.restart.append(&mut applied);
        return running.to_vec();
    }
    lists.applied.append(&mut applied);
    merged
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BASE: &str = r#"
[[account]]
name = "alice"
addresses = ["alice@example.org"]
maildir = "/m/alice"
[[account.mailbox]]
name = "work"
addresses = ["work@example.org"]
maildir = "/m/work"
[[account]]
name = "carol"
maildir = "/m/carol"
"#;

    fn parse(text: &str) -> Config {
        crate::config::parse(text, Path::new("test")).expect(text)
    }

    /// What becomes of a file in which `from` was replaced with `to`, or which begins with `to`.
    fn changed(base: &str, from: &str, to: &str) -> (Change, Config, Config) {
        let text = if from.is_empty() { format!("{to}\n{base}") } else { base.replacen(from, to, 1) };
        let (running, read) = (parse(base), parse(&text));
        (compare(&running, read.clone()), running, read)
    }

    #[test]
    fn what_links_and_sockets_do_not_depend_on_is_taken_on() {
        for (from, to, key) in [
            ("", "[log]\nlevel = \"debug\"", "log.level"),
            ("", "[lmtp]\nmax_size = \"1 MiB\"", "lmtp.max_size"),
            ("", "[lmtp]\nallow_users = [7]", "lmtp.allow_users"),
            ("", "[queue]\nexpire = \"1d\"", "queue.expire"),
            ("", "[queue]\nretry_max = \"2h\"", "queue.retry_max"),
            ("", "[queue]\nrelay_after = \"5m\"", "queue.relay_after"),
            ("", "[delivery]\nmin_free = 0", "delivery.min_free"),
            ("", "[relay]\nopen = true", "relay.open"),
            ("", "[relay]\nretention = \"1d\"", "relay.retention"),
            ("", "[names]\nunsigned = \"tofu\"", "names.unsigned"),
            ("", "[names]\nincoming = \"all\"", "names.incoming"),
            ("alice@example.org", "a@example.org", "account `alice`: addresses"),
            ("maildir = \"/m/carol\"", "maildir = \"/m/carol\"\nsenders = [\"c@x.org\"]", "account `carol`: senders"),
            ("work@example.org", "w@example.org", "account `alice`: mailbox"),
            ("\"carol\"", "\"carol\"\nrelays = \"none\"", "account `carol`: relays"),
            ("\"carol\"", "\"carol\"\nreceipt_delay = \"1h\"", "account `carol`: receipts"),
            ("\"carol\"", "\"carol\"\nrelay_poll = \"1h\"", "account `carol`: relay_poll"),
        ] {
            let (change, _, read) = changed(BASE, from, to);
            assert_eq!((change.applied, change.restart), (vec![key.to_owned()], Vec::new()), "{to}");
            assert_eq!(change.config, read, "{to}");
        }
    }

    #[test]
    fn what_they_depend_on_stays_and_is_named() {
        for (from, to, key) in [
            ("", "state_dir = \"/x\"", "state_dir"),
            ("", "[lmtp]\nsocket = \"/x\"", "lmtp.socket"),
            ("", "[control]\nallow_users = [7]", "control"),
            ("", "[log]\nsyslog = false", "log.syslog"),
            ("", "[tox]\nport_range = [1, 2]", "tox.port_range"),
            ("\"/m/carol\"", "\"/m/c\"", "account `carol`: the way of its mail"),
            (
                "maildir = \"/m/carol\"",
                "deliver = \"smtp:h:25\"\ndeliver_to = \"c\"",
                "account `carol`: the way of its mail",
            ),
            ("", "[queue]\nnotices = \"smtp:h:25\"", "queue.notices"),
            ("", "[relay]\nenabled = true", "relay.enabled"),
            ("\"/m/work\"", "\"/m/w\"", "account `alice`: the way of mailbox `work`"),
            ("", "", ""),
        ] {
            let (change, running, _) = changed(BASE, from, to);
            let expected = if key.is_empty() { Vec::new() } else { vec![key.to_owned()] };
            assert_eq!((change.applied, change.restart), (Vec::new(), expected), "{to}");
            assert_eq!(change.config, running, "{to}");
        }
    }

    #[test]
    fn no_account_changes_while_one_of_them_comes_or_goes() {
        // The address moves to an account that does not run yet.
        let moved = BASE.replace("[\"alice@example.org\"]", "[]")
            + "[[account]]\nname = \"dave\"\naddresses = [\"alice@example.org\"]\nmaildir = \"/m/dave\"\n";
        let change = compare(&parse(BASE), parse(&moved));
        assert_eq!(change.restart, ["new account `dave`", "account `alice`: addresses"]);
        assert_eq!(change.config, parse(BASE));
        let change = compare(&parse(&moved), parse(BASE));
        assert_eq!(change.restart, ["account `dave` is gone", "account `alice`: addresses"]);
        let renamed = compare(&parse(BASE), parse(&BASE.replace("\"work\"", "\"shop\"")));
        assert_eq!(renamed.restart, ["account `alice`: mailbox `work` is gone", "account `alice`: mailbox"]);
        assert_eq!(renamed.config, parse(BASE));
    }

    #[test]
    fn a_mailbox_keeps_its_number() {
        let first =
            "[[account.mailbox]]\nname = \"first\"\nmaildir = \"/m/first\"\n[[account.mailbox]]\nname = \"work\"";
        let (change, ..) = changed(BASE, "[[account.mailbox]]\nname = \"work\"", first);
        let names: Vec<_> = change.config.accounts[0].mailboxes.iter().map(|mailbox| &mailbox.name[..]).collect();
        assert_eq!((names, change.applied.len()), (vec!["work", "first"], 1));
        let (alice, carol) = BASE.split_at(BASE.rfind("[[account]]").expect("carol"));
        assert_eq!(compare(&parse(BASE), parse(&format!("{carol}{alice}"))).config, parse(BASE));
    }

    #[test]
    fn no_query_goes_past_a_proxy_that_is_still_in_use() {
        let proxied = "[tox]\nudp = false\nproxy = \"socks5://127.0.0.1:9050\"";
        let running = parse(&format!("{proxied}\n{BASE}"));
        let change = compare(&running, parse(BASE));
        assert_eq!(change.restart, ["tox.udp", "tox.proxy", "names.lookup"]);
        assert!(!change.config.names.lookup);
    }
}
