use std::path::Path;

use proptest::prelude::*;

use super::*;

const SAMPLE: &str = include_str!("../../docs/examples/tox-agent.toml");
const ACCOUNT: &str = "[[account]]\nname = \"a\"\nmaildir = \"/m\"\n";

fn try_parse(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("/etc/x.toml"))
}

fn wrong(text: &str) -> String {
    try_parse(text).expect_err(text).to_string()
}

#[test]
fn the_sample_shows_the_defaults() {
    let sample = try_parse(SAMPLE).expect("sample");
    let mut bare = try_parse(ACCOUNT).expect("bare");
    assert_eq!(sample.accounts[0].addresses[0].to_string(), "alice@example.org");
    bare.accounts = sample.accounts.clone();
    assert_eq!(sample, bare);
    assert_eq!(bare.control.socket, Path::new(DEFAULT_CONTROL_SOCKET));
}

#[test]
fn the_sample_with_all_of_its_comments_taken_away_is_valid_too() {
    let mut all = String::new();
    for line in SAMPLE.lines() {
        let code = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with('[') || rest.contains(" = ") && !rest.starts_with(' '));
        all += code.unwrap_or(line);
        all += "\n";
    }
    // One proxy or the other.
    let config = try_parse(&all.replace("udp = true", "udp = false").replace("\nprivate", "\n#private")).expect("all");
    assert_eq!(config.hostname, "laptop.local");
    assert_eq!(config.lmtp.group.as_deref(), Some("postfix"));
    assert_eq!(config.tox.proxy, Some(Proxy { kind: ProxyKind::Socks5, host: "127.0.0.1".into(), port: 9050 }));
    assert_eq!(config.tox.bootstrap[0].tcp_ports, [33445, 3389]);
    assert_eq!(config.accounts[0].mailboxes[0].name, "work");
    assert!(config.accounts[0].passphrase.is_some());
}

#[test]
fn a_passphrase_is_in_a_file_or_a_credential() {
    let source =
        |keys: &str| try_parse(&format!("{ACCOUNT}\n{keys}")).map(|config| config.accounts[0].passphrase.clone());
    let credential = PassphraseSource::Credential("tox-agent.passphrase".into());
    assert_eq!(source("passphrase_credential = 'tox-agent.passphrase'").expect("credential"), Some(credential.clone()));
    assert_eq!(source("passphrase_file = '/p'").expect("file"), Some(PassphraseSource::File("/p".into())));
    assert_eq!(source("").expect("none"), None);
    for wrong in ["passphrase_credential = '../p'", "passphrase_credential = ''", "passphrase_credential = '.p'"] {
        assert!(source(wrong).is_err(), "{wrong}");
    }
    let both = source("passphrase_file = '/p'\npassphrase_credential = 'p'").expect_err("both").to_string();
    assert!(both.contains("passphrase_file"), "{both}");
    // Cargo's tests are no service.
    assert!(credential.file().expect_err("no credentials").to_string().contains("LoadCredential="));
}

#[test]
fn every_value_is_read() {
    let config = try_parse(&format!(
        "state_dir = '/s/./t//'\nhostname = 'Host.Example.'\n[lmtp]\nsocket = '/l'\nmode = '600'\ngroup = 7\n\
         allow_users = ['postfix', 12, '13']\nmax_size = 2048\nmax_recipients = 3\nmax_connections = 4\n\
         timeout = '1m'\n\
         [control]\nsocket = '/c'\n[log]\nlevel = 'debug'\nsyslog = false\nstderr = false\n\
         [queue]\nexpire = '1d'\nretry_min = '2s'\nretry_max = '3s'\nrelay_after = '0s'\nmax_disk = '1 GiB'\n\
         [delivery]\nmax_size = '1 KiB'\nmin_free = 0\n[tox]\nudp = false\nproxy = 'http://[::1]:8080/'\n\
         port_range = [1, 2]\ntcp_relay_port = 3\n{ACCOUNT}\
         relays = 'own'\nreceipts = false\nreceipt_delay = '1h'\nrelay_poll = '2s'\n"
    ))
    .expect("all");
    assert_eq!(config.state_dir.as_os_str(), "/s/t");
    assert_eq!(config.hostname, "host.example");
    assert_eq!((config.lmtp.mode, config.lmtp.group.as_deref()), (0o600, Some("7")));
    assert_eq!(config.lmtp.allow_users, [User::Name("postfix".into()), User::Uid(12), User::Uid(13)]);
    assert_eq!((config.lmtp.max_size, config.lmtp.timeout), (2048, Duration::from_secs(60)));
    assert_eq!(config.log.level, log::LevelFilter::Debug);
    assert_eq!(config.tox.port_range, (1, 2));
    assert_eq!(config.tox.proxy.map(|p| p.host).as_deref(), Some("::1"));
    let account = &config.accounts[0];
    assert_eq!((config.queue.relay_after, account.relays, account.receipts), (Duration::ZERO, Relays::Own, false));
    assert_eq!((account.receipt_delay.as_secs(), account.relay_poll.as_secs()), (3600, 2));
}

#[test]
fn a_relay_is_one_only_when_it_is_told_to() {
    let relay = try_parse(ACCOUNT).expect("a configuration").relay;
    assert!(!relay.enabled && !relay.open && !relay.offer);
    assert_eq!((relay.max_disk, relay.owner_quota, relay.max_owners), (1 << 30, 100 << 20, 100));
    assert_eq!(relay.retention, Duration::from_secs(30 * 86_400));
    let all = "[relay]\nenabled = true\nopen = true\noffer = 'contacts'\nmax_disk = '4 GiB'\n\
               owner_quota = '4 GiB'\nmax_owners = 1\nretention = '1h'\n";
    let relay = try_parse(&format!("{all}{ACCOUNT}")).expect("a configuration").relay;
    assert!(relay.enabled && relay.open && relay.offer);
    assert_eq!((relay.max_disk, relay.owner_quota, relay.max_owners), (4 << 30, 4 << 30, 1));
    assert_eq!(relay.retention, Duration::from_secs(3600));
    for (wrong, expected) in [
        ("offer = 'all'", "2: relay.offer is \"contacts\" or \"none\""),
        ("max_disk = '1 MiB'", "2: relay.max_disk"),
        ("owner_quota = '2 GiB'", "2: relay.owner_quota is larger than relay.max_disk"),
        ("max_disk = '50 MiB'", "2: relay.owner_quota is larger than relay.max_disk"),
        ("max_owners = 0", "2: relay.max_owners"),
        ("retention = '59m'", "2: relay.retention: 59m is not from 1h"),
        ("retntion = '1d'", "unknown key `retntion` in [relay]; did you mean `retention`?"),
    ] {
        let told = try_parse(&format!("[relay]\n{wrong}\n{ACCOUNT}")).expect_err(wrong).to_string();
        assert!(told.contains(expected), "{wrong}: {told}");
    }
}

#[test]
fn names_are_looked_up_unless_that_would_go_past_a_proxy() {
    let names = try_parse(ACCOUNT).expect("a configuration").names;
    assert_eq!((names.lookup, names.incoming, names.policy), (true, Incoming::Ask, Policy::default()));
    let proxy = format!("[tox]\nudp = false\nproxy = 'socks5://127.0.0.1:9050'\n{ACCOUNT}");
    assert!(!try_parse(&proxy).expect("a configuration").names.lookup);
    let own = "[names]\nresolver = ['9.9.9.9', '[::1]:5353']\nrefresh = '0s'\n[[names.domain]]\nname = 'B.org'\n";
    let names = try_parse(&format!("{own}sign_key = '{}'\n{ACCOUNT}", "0A".repeat(32))).expect("a configuration").names;
    assert_eq!(names.resolver.iter().map(ToString::to_string).collect::<Vec<_>>(), ["9.9.9.9:53", "[::1]:5353"]);
    assert_eq!((names.refresh, names.domains[0].name.as_str()), (Duration::ZERO, "b.org"));
    assert_eq!((names.domains[0].tox3_key, names.domains[0].sign_key), (None, Some([10; 32])));
}

#[test]
fn private_leaves_no_way_past_the_proxy() {
    let set = "[tox]\nprivate = 'socks5://127.0.0.1:9050'\n";
    let config = try_parse(&format!("{set}{ACCOUNT}deliver = 'maildir'")).expect("a configuration");
    assert!(config.tox.private && !config.tox.resolves());
    assert_eq!((config.tox.udp, config.tox.lan_discovery, config.tox.tcp_relay_port), (false, false, 0));
    assert_eq!(config.tox.proxy, Some(Proxy { kind: ProxyKind::Socks5, host: "127.0.0.1".into(), port: 9050 }));
    assert!(!config.names.lookup);
    // To say the same again is no contradiction.
    let same = "udp = false\nlan_discovery = false\ntcp_relay_port = 0\n[names]\nlookup = false\n";
    assert_eq!(try_parse(&format!("{set}{same}{ACCOUNT}")).expect("the same"), config);
    for (more, expected) in [
        ("udp = true", ":3: tox.udp: UDP would go past the proxy; remove it, or tox.private"),
        ("lan_discovery = true", ":3: tox.lan_discovery: the local net would hear of this host; remove it"),
        ("tcp_relay_port = 33445", ":3: tox.tcp_relay_port: others would connect to this host's address; remove it"),
        ("proxy = 'socks5://127.0.0.1:9050'", ":3: tox.proxy: tox.private is the proxy; remove it"),
        ("[names]\nlookup = true", ":4: names.lookup: DNS queries would go past the proxy; remove it"),
        (
            "[queue]\nnotices = 'smtp:mx.example:25'",
            ":4: queue.notices: with tox.private nothing is looked up: give the IP",
        ),
        (
            "[[account]]\nname = 'b'\ndeliver_to = 'b'\ndeliver = 'smtp:localhost:25'",
            ":6: deliver: with tox.private nothing is looked up: give the IP address of localhost",
        ),
    ] {
        let told = wrong(&format!("{set}{more}\n{ACCOUNT}"));
        assert!(told.contains(expected) && told.lines().count() == 1, "{more:?} told {told:?}");
    }
    for wrong_proxy in ["http://127.0.0.1:8118", "socks5://localhost:9050", "127.0.0.1:9050", "socks5://[::1]", ""] {
        let told = wrong(&format!("[tox]\nprivate = '{wrong_proxy}'\n{ACCOUNT}"));
        assert!(told.contains(":2: tox.private is \"socks5://IP-ADDRESS:PORT\""), "{wrong_proxy:?} told {told:?}");
    }
}

#[test]
fn a_node_with_a_name_is_of_no_use_behind_a_proxy() {
    let node = |host: &str| format!("[[tox.bootstrap]]\nhost = '{host}'\nport = 1\nkey = '{}'\n", "00".repeat(32));
    let nodes = format!("{}{}{}", node("node.example.org"), node("192.0.2.1"), node("2001:db8::1"));
    let unusable = |text: &str| {
        let config = try_parse(text).expect("a configuration");
        config.tox.unusable_nodes().map(|node| node.host.clone()).collect::<Vec<_>>()
    };
    assert_eq!(unusable(&format!("{nodes}{ACCOUNT}")), Vec::<String>::new());
    for proxy in ["[tox]\nprivate = 'socks5://[::1]:9050'\n", "[tox]\nudp = false\nproxy = 'http://p:8118'\n"] {
        assert_eq!(unusable(&format!("{proxy}{nodes}{ACCOUNT}")), ["node.example.org"]);
    }
}

#[test]
fn unknown_keys_are_told_with_line_section_and_the_nearest_name() {
    assert_eq!(
        wrong("# one\n[[account]]\nname = 'a'\nadresses = []\nmaildir = '/m'\n"),
        "/etc/x.toml:4: unknown key `adresses` in [[account]]; did you mean `addresses`?"
    );
    assert_eq!(wrong("hostnme = 'x'"), "/etc/x.toml:1: unknown key `hostnme`; did you mean `hostname`?");
    assert_eq!(wrong("[lmtp]\nsokcet = 'x'"), "/etc/x.toml:2: unknown key `sokcet` in [lmtp]; did you mean `socket`?");
    assert_eq!(wrong("\n[acount]\n"), "/etc/x.toml:2: unknown key `acount`; did you mean `account`?");
    let nested = format!("{ACCOUNT}[[account.mailbox]]\nnam = 'w'\n");
    assert_eq!(wrong(&nested), "/etc/x.toml:5: unknown key `nam` in [[account.mailbox]]; did you mean `name`?");
    assert_eq!(
        wrong("[log]\nzzzzzzzz = 1"),
        "/etc/x.toml:2: unknown key `zzzzzzzz` in [log]; known here: level, syslog, stderr"
    );
}

#[test]
fn errors_name_file_and_line() {
    for (text, expected) in [
        ("a = ", "/etc/x.toml:1: "),
        ("[[account]]\nname = 'a'\n", "/etc/x.toml:2: account `a` has no maildir, which deliver = \"maildir\" needs"),
        ("[lmtp]\nmax_size = true\n", "/etc/x.toml:2: expected a whole number or a text in quotes"),
        ("[queue]\nexpire = 5\n", "/etc/x.toml:2: invalid type: integer `5`, expected a string"),
        ("", "/etc/x.toml: no account"),
        ("state_dir = 'var'", "/etc/x.toml:1: state_dir: `var` is no absolute path"),
        ("state_dir = '/a/../b'", "/etc/x.toml:1: state_dir: `/a/../b` has `..`"),
        ("hostname = 'a b'", "/etc/x.toml:1: hostname: `a b` is no host name"),
        ("[lmtp]\nmode = '0999'", "/etc/x.toml:2: lmtp.mode is a file mode"),
        ("[lmtp]\ntimeout = '0s'", "/etc/x.toml:2: lmtp.timeout: 0s is not from 1s to 1d"),
        ("[lmtp]\nmax_recipients = 0", "/etc/x.toml:2: lmtp.max_recipients: 0 is not from 1"),
        ("[lmtp]\nmax_size = -1", "/etc/x.toml:2: lmtp.max_size: a size is not negative"),
        ("[lmtp]\nallow_users = ['a b']", "/etc/x.toml:2: lmtp.allow_users: a user is"),
        (
            "[lmtp]\nsocket = '/run/tox-agent/control.sock'\n[control]\nsocket = '/run/tox-agent/control.sock'",
            ":4: control.socket is the same",
        ),
        ("[log]\nlevel = 'trace'", "/etc/x.toml:2: log.level is one of"),
        ("[queue]\nretry_min = '2h'", "/etc/x.toml:2: queue.retry_max is shorter"),
        ("[queue]\nmax_disk = '1 MiB'", "/etc/x.toml:2: queue.max_disk is smaller than lmtp.max_size"),
        (
            "[queue]\nnotices = 'lmtp:/run/x'",
            "/etc/x.toml:2: queue.notices is \"mailbox\", or the MTA that takes them, as \"smtp:127.0.0.1:25\"",
        ),
        ("[queue]\ndelay_notice = '4 hours'", "/etc/x.toml:2: queue.delay_notice: `4 hours` is no time span"),
        ("[names]\nunsigned = 'yes'", "/etc/x.toml:2: names.unsigned is one of \"ask\", \"tofu\", \"refuse\""),
        ("[names]\noutgoing = ''", "/etc/x.toml:2: names.outgoing is \"auto\" or \"ask\""),
        ("[names]\nincoming = 'none'", "/etc/x.toml:2: names.incoming is one of"),
        ("[names]\nresolver = ['dns.example']", "/etc/x.toml:2: names.resolver: `dns.example` is no IP address"),
        ("[names]\nrefresh = '1m'", "/etc/x.toml:2: names.refresh: 1m is not from 1h"),
        ("[[names.domain]]\nname = 'a b'", "/etc/x.toml:2: names.domain.name is a domain"),
        ("[[names.domain]]\nname = 'a.b'\ntox3_key = '12'", "/etc/x.toml:3: names.domain.tox3_key is a key of 64"),
        (
            "[[names.domain]]\nname = 'a.b'\n[[names.domain]]\nname = 'A.b'",
            "/etc/x.toml:4: names.domain: `a.b` is there",
        ),
        (
            "[names]\nlookup = true\n[tox]\nudp = false\nproxy = 'socks5://127.0.0.1:9050'",
            "/etc/x.toml:2: with a proxy, names.lookup must be false",
        ),
        ("[tox]\nproxy = 'socks5://127.0.0.1:9050'", "/etc/x.toml:2: with a proxy, tox.udp must be false"),
        ("[tox]\nudp = false\nproxy = 'socks5://u@h:1'", "/etc/x.toml:3: tox.proxy is"),
        ("[tox]\nport_range = [2, 1]", "/etc/x.toml:2: tox.port_range is [first, last]"),
        ("[queue]\nrelay_after = '-1s'", "/etc/x.toml:2: queue.relay_after: `-1s` is no time span"),
        (
            "[[account]]\nname = 'a'\nmaildir = '/m'\nrelays = 'all'",
            "/etc/x.toml:4: relays is one of \"auto\", \"own\", \"none\"",
        ),
        ("[[account]]\nname = 'a'\nmaildir = '/m'\nrelay_poll = '0s'", "/etc/x.toml:4: relay_poll: 0s is not from 1s"),
        (
            "[[account]]\nname = 'a'\nmaildir = '/m'\nreceipt_delay = '2d'",
            "/etc/x.toml:4: receipt_delay: 2d is not from 0s to 1d",
        ),
        (
            "[[tox.bootstrap]]\nhost = 'h'\nport = 70000\nkey = 'x'",
            "/etc/x.toml:3: tox.bootstrap.port: 70000 is no port",
        ),
        ("[[tox.bootstrap]]\nhost = 'h'\nport = 7\nkey = 'x'", "/etc/x.toml:4: tox.bootstrap.key is"),
        ("[[account]]\nname = 'A'\nmaildir = '/m'", "/etc/x.toml:2: an account's name is 1 to 64"),
        ("[[account]]\nname = 'a'\nmaildir = '/m'\naddresses = ['x']", "/etc/x.toml:4: addresses: `x`: an address is"),
        (
            "[[account]]\nname = 'a'\nmaildir = '/m'\naddresses = ['x@tox.alt']",
            "/etc/x.toml:4: addresses: `x@tox.alt`: the key's",
        ),
    ] {
        let told = wrong(text);
        assert!(told.contains(expected), "{text:?} told {told:?}, not {expected:?}");
    }
    let several = wrong("state_dir = 'x'\n[log]\nlevel = 'x'\n");
    assert_eq!(several.lines().count(), 3, "{several}");
}

#[test]
fn mail_goes_into_a_maildir_or_to_a_server() {
    let ways = |text: &str| {
        let config = try_parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let account = &config.accounts[0];
        let further = account.mailboxes.iter().map(|mailbox| mailbox.way.to_string());
        std::iter::once(account.way.to_string()).chain(further).collect::<Vec<_>>()
    };
    let lmtp = "[[account]]\nname = 'a'\ndeliver = 'lmtp:/run/dovecot/lmtp'\n";
    let mailbox = "[[account.mailbox]]\nname = 'w'\n";
    assert_eq!(ways(&format!("{ACCOUNT}deliver = 'maildir'")), ["/m"]);
    assert_eq!(ways(&format!("{lmtp}addresses = ['x@y']\ndeliver_to = 'al'")), ["lmtp:/run/dovecot/lmtp for <al>"]);
    // A mailbox goes its account's way, with a recipient of its own.
    let both = format!("{lmtp}deliver_to = 'al'\n{mailbox}deliver_to = 'w@x'");
    assert_eq!(ways(&both)[1], "lmtp:/run/dovecot/lmtp for <w@x>");
    assert_eq!(ways(&format!("{lmtp}deliver_to = 'al'\n{mailbox}deliver = 'maildir'\nmaildir = '/w'"))[1], "/w");
    let smtp = "deliver = 'smtp:[::1]:25'\ndeliver_to = 'al@host'";
    assert_eq!(ways(&format!("{ACCOUNT}{mailbox}{smtp}")), ["/m", "smtp:[::1]:25 for <al@host>"]);
    for (text, expected) in [
        (format!("{ACCOUNT}deliver = 'mbox'"), ":4: deliver: `mbox`: neither lmtp:/path nor smtp:host:port; it is"),
        (format!("{ACCOUNT}deliver = 'smtp:host'"), ":4: deliver: `smtp:host`: smtp: wants a host and a port"),
        (format!("{lmtp}maildir = '/m'"), ":4: maildir: mail of account `a` goes to lmtp:/run/dovecot/lmtp; remove it"),
        (format!("{ACCOUNT}deliver_to = 'a'"), ":2: account `a`: deliver_to is for lmtp: and smtp: only"),
        (
            lmtp.to_owned(),
            ":2: account `a`: lmtp:/run/dovecot/lmtp needs deliver_to, the user or address that it knows",
        ),
        (format!("{lmtp}deliver_to = 'al'\n{mailbox}"), ":6: mailbox `w` of account `a`: lmtp:/run/dovecot/lmtp needs"),
        (format!("{lmtp}deliver_to = 'a b'"), ":4: deliver_to: `a b`: the part before @ needs quotes"),
        (
            format!("{lmtp}deliver_to = 'al'\n{mailbox}maildir = '/w'"),
            ":7: maildir: mail of mailbox `w` of account `a` goes to",
        ),
        (format!("{ACCOUNT}{mailbox}"), ":5: mailbox `w` of account `a` has no maildir"),
        (
            "[lmtp]\nsocket = '/run/x'\n[[account]]\nname = 'a'\ndeliver = 'lmtp:/run/x'".into(),
            ":5: deliver: this is lmtp.socket",
        ),
    ] {
        let told = wrong(&text);
        assert!(told.contains(expected), "{text:?} told {told:?}, not {expected:?}");
    }
}

#[test]
fn names_addresses_and_maildirs_occur_once() {
    let two = |more: &str| {
        format!(
            "[[account]]\nname = 'a'\naddresses = ['a@x']\nsenders = ['a@x', 's@x']\n\
             maildir = '/m'\n[[account]]\n{more}"
        )
    };
    assert!(try_parse(&two("name = 'b'\nmaildir = '/n'")).is_ok());
    for (more, expected) in [
        ("name = 'a'\nmaildir = '/n'", ":7: the account `a` is already at line 2"),
        ("name = 'b'\nmaildir = '/m/'", ":8: maildir: /m is already used at line 5"),
        (
            "name = 'b'\nmaildir = '/n'\naddresses = ['A@X']",
            ":9: addresses: `A@x` already belongs to account `a` (line 3)",
        ),
        (
            "name = 'b'\nmaildir = '/n'\naddresses = ['s@x']",
            ":9: addresses: `s@x` already belongs to account `a` (line 4)",
        ),
        ("name = 'b'\nmaildir = '/n'\nsenders = ['a@x']", ":9: senders: `a@x` already belongs to account `a` (line 3)"),
        ("name = 'b'\nmaildir = '/n'\nsenders = ['q@x', 'q@x']", ":9: senders: `q@x` is listed twice"),
        (
            "name = 'b'\nmaildir = '/n'\n[[account.mailbox]]\nname = 'w'\nmaildir = '/n'",
            ":11: maildir: /n is already used",
        ),
        (
            "name = 'b'\nmaildir = '/n'\n[[account.mailbox]]\nname = 'b'\nmaildir = '/o'",
            ":10: the mailbox `b` is named like",
        ),
        (
            "name = 'b'\nmaildir = '/n'\n[[account.mailbox]]\nname = 'w'\nmaildir = '/o'\naddresses = ['a@x']",
            ":12: addresses: `a@x` already belongs to account `a`",
        ),
        (
            "name = 'b'\nmaildir = '/n'\nmailbox = [{ name = 'w', maildir = '/o' }, { name = 'w', maildir = '/p' }]",
            ":9: the mailbox `w` is already at line 9",
        ),
    ] {
        let told = wrong(&two(more));
        assert!(told.contains(expected), "{more:?} told {told:?}, not {expected:?}");
    }
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join("c.toml");
    assert!(load(&file).expect_err("none").to_string().contains("cannot read the configuration"));
    std::fs::write(&file, b"# a\n# \xff\n").expect("write");
    assert_eq!(load(&file).expect_err("latin").problems()[0].line, Some(2));
    std::fs::write(&file, SAMPLE).expect("write");
    assert!(load(&file).is_ok());
    assert!(load(folder.path()).is_err());
}

#[test]
fn users_are_looked_up() {
    assert_eq!(User::Uid(5).uid().ok(), Some(5));
    assert_eq!(User::Name("root".into()).uid().ok(), Some(0));
    assert!(User::Name("no-such-user-here".into()).uid().is_err());
}

proptest! {
    #[test]
    fn parse_never_panics(text in any::<String>()) {
        let _ = try_parse(&text);
    }

    #[test]
    fn parse_never_panics_on_nearly_right_text(
        key in "(\\[lmtp\\]\n|\\[\\[account\\]\\]\n|\\[tox\\]\n)?[a-z_]{1,12}",
        value in "(\"[^\"\\\\\n]{0,20}\"|-?[0-9]{1,20}|true|\\[\\]|\\{ a = 1 \\}|\\PC{0,12})",
        at in 0..SAMPLE.lines().count(),
    ) {
        let mut lines: Vec<&str> = SAMPLE.lines().collect();
        let line = format!("{key} = {value}");
        lines.insert(at, &line);
        let _ = try_parse(&lines.join("\n"));
        let _ = (units::size(&value), units::duration(&value));
    }
}
