#![allow(clippy::unwrap_used)]

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "ab".repeat(32)).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The mandatory settings and some more lines.
    fn resolve(&self, lines: &str) -> Result<PeerConfig, ConfigError> {
        let file = self.path("peer.yaml");
        let (data, secret) = (self.path("data"), self.path("secret"));
        let least =
            format!("name: a\ndata_dir: {}\nsecret_file: {}\n", data.display(), secret.display());
        fs::write(&file, format!("{least}{lines}")).unwrap();
        PeerConfig::resolve(Some(&file), PeerOptions::default())
    }

    fn error(&self, lines: &str) -> String {
        let error = self.resolve(lines).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }
}

fn from_text(name: &str, text: &str) -> Result<PeerOptions, ConfigError> {
    let key = KEYS.iter().find(|key| key.name == name).unwrap();
    PeerOptions::from_text(key, text, "PINKEEPER_TEST")
}

#[test]
fn the_least_file_has_the_defaults() {
    let folder = Folder::new();
    let config = folder.resolve("").unwrap();
    let has_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let both = ["/ip6/::/tcp/9096", "/ip4/0.0.0.0/tcp/9096"].map(|text| text.parse().unwrap());
    assert_eq!(config.listen, both[usize::from(!has_v6)..]);
    assert_eq!(config.rest_listen.to_string(), "127.0.0.1:9094");
    assert_eq!(config.health_listen.to_string(), "[::]:9095");
    assert_eq!(config.ipfs_api.url(), "http://127.0.0.1:5001");
    assert_eq!(config.election, (Duration::from_millis(300), Duration::from_millis(500)));
    assert_eq!(config.ledger_dir, config.data_dir);
    let everywhere = Replication { min: Factor::Everywhere, max: Factor::Everywhere };
    assert_eq!(config.replication, everywhere);
    assert!(!config.found);
    assert_eq!((config.gc_watermark, config.gc_timeout), (None, Duration::from_secs(1800)));
    assert!(config.data_dir.is_dir());
}

#[test]
fn a_full_file_is_understood_and_overridden() {
    let folder = Folder::new();
    let lines = "
listen: [/ip4/127.0.0.1/tcp/0, /ip6/::1/tcp/9]
announce: [/ip4/10.0.0.1/tcp/9096]
bootstrap:
- /ip4/10.0.0.2/tcp/9096/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp
- /ip4/10.0.0.3/tcp/9096
found: true
ipfs_api: /ip4/127.0.0.1/tcp/5009
rest_listen: 127.0.0.1:1
rest_hosts: [Pins.Example.org., '::1']
health_listen: '[::]:2'
heartbeat_ms: 50
election_min_ms: 200
election_max_ms: 400
pin_stall_timeout: 90s
concurrent_pins: 3
replication_min: 2
replication_max: 3
gc_watermark: 90
gc_pause: 2h
gc_timeout: 10m
move_after: 3m
move_zone_after: 2h
tags: {zone: a}
log_level: debug
log_format: json
";
    let config = folder.resolve(lines).unwrap();
    assert_eq!(config.bootstrap.len(), 2);
    assert_eq!(config.ipfs_api.url(), "http://127.0.0.1:5009");
    assert_eq!(config.rest_hosts, ["pins.example.org", "::1"]);
    assert_eq!(config.pin_stall_timeout, Duration::from_secs(90));
    assert_eq!(config.replication.max, Factor::Count(3));
    assert_eq!((config.gc_watermark, config.gc_pause), (Some(90), Duration::from_secs(7200)));
    assert_eq!(config.gc_timeout, Duration::from_secs(600));
    let moves = [config.move_after, config.move_zone_after];
    assert_eq!(moves.map(|after| after.as_secs()), [180, 7200]);
    assert_eq!(config.log_format, LogFormat::Json);

    let flags = from_text("name", "b").unwrap().or(from_text("tags", "zone=b, disk=ssd").unwrap());
    let config = PeerConfig::resolve(Some(&folder.path("peer.yaml")), flags).unwrap();
    assert_eq!(config.name, "b");
    assert_eq!(config.tags["disk"], "ssd");
    assert_eq!(config.concurrent_pins, 3);
}

#[test]
fn every_key_can_be_a_flag_and_every_field_is_a_key() {
    let samples = BTreeMap::from([
        ("listen", "/ip4/127.0.0.1/tcp/1,/ip4/127.0.0.1/tcp/2"),
        ("announce", "/ip4/127.0.0.1/tcp/1"),
        ("bootstrap", "/ip4/127.0.0.1/tcp/1"),
        ("ipfs_api", "http://localhost:5001/"),
        ("rest_listen", "127.0.0.1:0"),
        ("health_listen", "127.0.0.1:0"),
        ("pin_stall_timeout", "1h"),
        ("gc_pause", "2h"),
        ("gc_timeout", "5m"),
        ("move_after", "7m"),
        ("move_zone_after", "90m"),
        ("log_level", "warn"),
        ("log_format", "text"),
        ("tags", "a=b"),
    ]);
    for key in &KEYS {
        let text = samples.get(key.name).copied().unwrap_or(match key.spelling {
            Spelling::Number => "1",
            Spelling::Truth => "true",
            _ => "x",
        });
        let options = PeerOptions::from_text(key, text, "--flag").unwrap();
        assert_ne!(options, PeerOptions::default(), "{}", key.name);
    }
    let error = Folder::new().error("no_such_key: 1\n");
    let fields = error.split("expected").nth(1).unwrap().matches(',').count() + 1;
    assert_eq!(fields, KEYS.len(), "{error}");
}

#[test]
fn an_error_in_the_file_names_file_line_and_key() {
    let folder = Folder::new();
    let cases = [
        ("heart_beat: 5\n", "heart_beat"),
        ("found: true\nheartbeat_ms: fast\n", "heartbeat_ms"),
        ("listen: [127.0.0.1:9096]\n", "multiaddr"),
        ("listen:\n- /dns4/a/tcp/1\n", "/ip4/"),
        ("bootstrap: [/ip4/10.0.0.1/udp/1]\n", "/tcp/"),
        ("rest_listen: localhost\n", "rest_listen"),
        ("rest_hosts: ['a:9094']\n", "without a port"),
        ("rest_hosts: ['http://a']\n", "without a port"),
        ("rest_hosts: ['']\n", "without a port"),
        ("pin_stall_timeout: soon\n", "pin_stall_timeout"),
        ("ipfs_api: https://u:p@x/y\n", "ipfs_api"),
        ("log_level: loud=loud=loud\n", "log_level"),
        ("tags: 5\n", "tags"),
        ("name: b\n", "name"),
        ("listen: [\n", "line"),
    ];
    for (lines, word) in cases {
        let error = folder.error(lines);
        assert!(error.contains("peer.yaml, line ") && error.contains(word), "{lines}: {error}");
    }
    assert!(folder.error("heart_beat: 5\n").contains("line 4"));
}

#[test]
fn settings_that_do_not_go_together_are_refused_by_key() {
    let folder = Folder::new();
    let cases = [
        ("listen: []\n", "listen: needs"),
        ("heartbeat_ms: 200\n", "election_min_ms: 300"),
        ("election_max_ms: 300\n", "election_max_ms: 300"),
        ("replication_min: 0\n", "replication_min: 0"),
        ("replication_max: 2\n", "replication_min: -1"),
        ("concurrent_pins: 0\n", "concurrent_pins: 0"),
        ("gc_watermark: 101\n", "gc_watermark: 101"),
        ("announce: [/ip4/0.0.0.0/tcp/1]\n", "announce: /ip4/0.0.0.0/tcp/1"),
        ("ipfs_path: /no/such/folder\n", "/no/such/folder"),
        ("ledger_dir: /dev/null/x\n", "ledger_dir"),
        ("tags: {'': x}\n", "tags: must"),
    ];
    for (lines, words) in cases {
        let error = folder.error(lines);
        assert!(error.contains(words), "{lines}: {error}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    let folder = Folder::new();
    let secret = "0123456789abcdef".repeat(4);
    let lines = [
        format!("secret: {secret}\n"),
        format!("{secret}: x\n"),
        format!("heartbeat_ms: {secret}\n"),
        format!("rest_listen: {}\n", &secret[1..]),
        format!("tags: [{secret}]\n"),
    ];
    for line in &lines {
        let error = folder.error(line);
        assert!(error.contains("(hidden)") && !error.contains("0123456789"), "{line}: {error}");
    }
    for key in ["listen", "heartbeat_ms", "found", "tags", "ipfs_api"] {
        let error = from_text(key, &secret).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("0123456789"), "{shown}");
    }
}

#[test]
fn links_in_the_peers_folders_are_refused_and_change_nothing() {
    let folder = Folder::new();
    let mine = folder.path("identity");
    fs::write(&mine, "mine").unwrap();
    for name in [format!(".pinkeeper-probe-{}", std::process::id()), "ledger.redb".to_owned()] {
        let ledger = folder.path("ledger");
        fs::create_dir_all(&ledger).unwrap();
        let link = ledger.join(&name);
        std::os::unix::fs::symlink(&mine, &link).unwrap();
        let error = folder.error(&format!("ledger_dir: {}\n", ledger.display()));
        assert!(error.contains("ledger_dir") && error.contains("is a link"), "{error}");
        assert_eq!(fs::read(&mine).unwrap(), b"mine");
        fs::remove_file(&link).unwrap();
    }
}

#[test]
fn what_is_missing_is_named_with_its_flag_and_variable() {
    let error = PeerConfig::resolve(None, PeerOptions::default()).unwrap_err().to_string();
    assert_eq!(error, "name: is missing (config file, --name, or PINKEEPER_NAME)");
    let name = from_text("name", "a").unwrap();
    let error = PeerConfig::resolve(None, name.clone()).unwrap_err().to_string();
    assert!(error.contains("--data-dir"), "{error}");
    let folder = Folder::new();
    let data = PeerOptions { data_dir: Some(folder.path("data")), ..name };
    let missing = PeerOptions { secret_file: Some(folder.path("none")), ..data };
    let error = PeerConfig::resolve(None, missing).unwrap_err().to_string();
    assert!(error.starts_with("secret_file: cannot read"), "{error}");
    let error = PeerConfig::resolve(Some(&folder.path("no.yaml")), PeerOptions::default());
    assert!(error.unwrap_err().to_string().contains("no.yaml"));
    let error = from_text("heartbeat_ms", "fast").unwrap_err().to_string();
    assert!(error.contains("PINKEEPER_TEST (\"fast\")"), "{error}");
}
