//! People, their tokens, and the keys of integrations, by the command line as an owner types it.

use std::path::{Path, PathBuf};

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::patience::until;
use hearthkey_tests::process::{Ran, Running, binary, run};
use hearthkey_tests::wire::{Connect, Wire};
use serde_json::{Value, json};
use tokio::process::Command;

const PASSWORD: &str = "correct horse battery";

/// Another machine: a home directory of its own, with the hub's CA and nothing else.
struct Machine {
    home: PathBuf,
    ca: PathBuf,
    url: String,
}

impl Machine {
    fn new(hub: &Hub, name: &str) -> Self {
        let home = hub.beside().join(name);
        std::fs::create_dir(&home).expect("a directory");
        let ca = home.join("ca.pem");
        std::fs::copy(hub.ca_file(), &ca).expect("copied");
        Self { home, ca, url: hub.url("") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary("hearthkey");
        command.env("HOME", &self.home).env_remove("XDG_CONFIG_HOME").args(arguments);
        command
    }

    async fn ran(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments), "").await
    }

    async fn told(&self, arguments: &[&str]) -> Value {
        let ran = self.ran(&[arguments, &["-o", "json"]].concat()).await;
        assert_eq!(ran.exit, 0, "{arguments:?}: {ran:?}");
        ran.json()
    }

    fn login(&self, further: &[&str]) -> Command {
        let ca = self.ca.to_str().expect("UTF-8");
        self.command(&[&["login", &self.url, "--ca", ca, "--context", "cottage"], further].concat())
    }

    async fn log_in(&self, user: &str) {
        let ran = run(self.login(&["--user", user, "--password-file", "-"]), PASSWORD).await;
        assert_eq!(ran.exit, 0, "{ran:?}");
    }
}

/// A secret that was shown once.
fn shown(hub: &Hub, created: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let (id, secret) = (text(&created["credential"]["id"]), text(&created["secret"]));
    hub.remember_secret(&secret);
    (id, secret)
}

/// What the API says to a credential: the status.
async fn http(hub: &Hub, credential: &str) -> u16 {
    let answer = hub.http().get(hub.url("/api/v1/me")).bearer_auth(credential).send().await.expect("an answer");
    answer.status().as_u16()
}

/// What the MQTT front says to it: the code of CONNACK.
async fn mqtt(hub: &Hub, credential: &str) -> u8 {
    Wire::tls(hub).await.connect(&Connect::by_password("script", credential)).await.connack_code()
}

#[tokio::test]
async fn a_personal_access_token_lives_by_the_command_line() {
    let hub = Hub::start().await;
    let created = hub.told(&["pat", "create", "backup", "--scope", "devices:read", "--scope", "telemetry:read"]).await;
    let (id, first) = shown(&hub, &created);
    assert_eq!((http(&hub, &first).await, mqtt(&hub, &first).await), (200, 0));
    let list = hub.ran(&["pat", "list"]).await;
    assert!(list.out.contains(&id) && list.out.contains("backup"), "{list:?}");
    until("its use is known", async || {
        let shown = hub.told(&["pat", "show", &id]).await;
        (shown["last_used"]["source"] == "127.0.0.1").then_some(())
    })
    .await;

    // Rotation: the old one works until the new one is used, and whoever uses it afterwards ends both.
    let (_, lost) = shown(&hub, &hub.told(&["pat", "rotate", &id]).await);
    let (second_id, second) = shown(&hub, &hub.told(&["pat", "rotate", &id]).await);
    assert_eq!(http(&hub, &first).await, 200, "the new one was not used yet");
    let mut session = Wire::tls(&hub).await;
    assert_eq!(session.connect(&Connect::by_password("script", &first)).await.connack_code(), 0);
    assert_eq!(http(&hub, &second).await, 200);
    assert_eq!(session.receive().await.expect("a reason").disconnect_code(), 0x98, "the old one's session is cut");
    assert_eq!(mqtt(&hub, &first).await, 0x87);
    hub.audited("the end of the family", |entry| entry["action"] == "credential.reuse").await;
    assert_eq!((http(&hub, &second).await, http(&hub, &lost).await), (401, 401));
    assert!(hub.ran(&["pat", "show", &second_id]).await.exit != 0);

    let (id, third) = shown(&hub, &hub.told(&["pat", "create", "night", "--expires", "3d"]).await);
    let mut session = Wire::tls(&hub).await;
    assert_eq!(session.connect(&Connect::by_password("script", &third)).await.connack_code(), 0);
    hub.told(&["pat", "revoke", &id]).await;
    assert_eq!(session.receive().await.expect("a reason").disconnect_code(), 0x98);
    assert_eq!((http(&hub, &third).await, mqtt(&hub, &third).await), (401, 0x87));
    hub.finish().await;
}

#[tokio::test]
async fn an_api_key_has_its_networks_its_overlap_and_its_end() {
    let hub = Hub::start().await;
    let create = |name: &'static str, network: &'static str| {
        ["key", "create", name, "--integration", "dash", "--profile", "home-assistant", "--network", network]
    };
    let (_, elsewhere) = shown(&hub, &hub.told(&create("far", "192.0.2.0/24")).await);
    assert_eq!((http(&hub, &elsewhere).await, mqtt(&hub, &elsewhere).await), (401, 0x87), "from another network only");
    let (id, first) = shown(&hub, &hub.told(&create("near", "127.0.0.0/8")).await);
    assert_eq!((http(&hub, &first).await, mqtt(&hub, &first).await), (200, 0));

    let (second_id, second) = shown(&hub, &hub.told(&["key", "roll", &id, "--overlap", "1h"]).await);
    for key in [&first, &second] {
        assert_eq!((http(&hub, key).await, mqtt(&hub, key).await), (200, 0), "both work for the overlap");
    }
    let (third_id, third) = shown(&hub, &hub.told(&["key", "roll", &second_id, "--overlap", "0s"]).await);
    assert_eq!((http(&hub, &second).await, mqtt(&hub, &second).await), (401, 0x87), "no overlap was wanted");
    hub.told(&["key", "revoke", &third_id]).await;
    assert_eq!((http(&hub, &third).await, mqtt(&hub, &third).await), (401, 0x87));

    // A device that knows only a user name and a password; and one that may not connect gets no key.
    hub.add("plug", "tasmota").await;
    let (_, key) = shown(&hub, &hub.told(&["key", "create", "plug", "--device", "plug"]).await);
    assert_eq!(Wire::plain(&hub).await.connect(&Connect::by_password("plug", &key)).await.connack_code(), 0);
    hub.told(&["device", "disable", "plug"]).await;
    let refused = hub.ran(&["key", "create", "another", "--device", "plug"]).await;
    assert!(refused.exit == 1 && refused.err.contains("hearthkey device enable plug"), "{refused:?}");

    // Who may manage credentials and nothing else makes no key that may more.
    let (_, narrow) =
        shown(&hub, &hub.told(&["pat", "create", "keys", "--scope", "credentials:manage", "--scope", "credentials:own"]).await);
    let body = json!({ "name": "x", "integration": "x", "profile": "home-assistant" });
    let request = hub.http().post(hub.url("/api/v1/credentials/api-keys")).bearer_auth(&narrow).json(&body);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 403);
    let problem: Value = answer.json().await.expect("JSON");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("telemetry:read")), "{problem}");
    hub.finish().await;
}

#[tokio::test]
async fn people_do_what_their_role_allows_now_and_their_tokens_go_with_them() {
    let hub = Hub::start().await;
    Keyed::enrolled(&hub, "lamp", "switch").await;
    for (user, role) in [("ann", "member"), ("ben", "viewer")] {
        let add = hub.command(&["user", "add", user, "--role", role, "--password-file", "-"]);
        assert_eq!(run(add, PASSWORD).await.exit, 0);
    }
    let (ann, ben) = (Machine::new(&hub, "ann"), Machine::new(&hub, "ben"));
    ann.log_in("ann").await;
    ben.log_in("ben").await;
    for machine in [&ann, &ben] {
        assert_eq!(machine.ran(&["device", "list"]).await.exit, 0);
        let refused = machine.ran(&["device", "revoke", "lamp"]).await;
        assert!(refused.exit == 1 && refused.err.contains("devices:manage"), "{refused:?}");
    }
    assert!(ann.told(&["send", "lamp", "on", "--wait", "0s"]).await["id"].is_string(), "a member sends commands");
    assert_eq!(ben.ran(&["send", "lamp", "on", "--wait", "0s"]).await.exit, 1, "a viewer does not");
    let beyond = ben.ran(&["pat", "create", "more", "--scope", "commands:send"]).await;
    assert!(beyond.exit == 1 && beyond.err.contains("devices:read"), "what ben may pass on is told: {beyond:?}");

    let (_, script) = shown(&hub, &ann.told(&["pat", "create", "script"]).await);
    let mut session = Wire::tls(&hub).await;
    assert_eq!(session.connect(&Connect::by_password("script", &script)).await.connack_code(), 0);
    hub.told(&["user", "role", "ann", "viewer"]).await;
    assert_eq!(ann.ran(&["send", "lamp", "on", "--wait", "0s"]).await.exit, 1, "her token is no more than she is now");
    hub.told(&["user", "remove", "ann"]).await;
    assert_eq!(session.receive().await.expect("a reason").disconnect_code(), 0x98);
    assert_eq!((http(&hub, &script).await, mqtt(&hub, &script).await), (401, 0x87));
    assert_ne!(ann.ran(&["device", "list"]).await.exit, 0);
    assert_ne!(run(ann.login(&["--user", "ann", "--password-file", "-"]), PASSWORD).await.exit, 0);
    assert_eq!(ben.ran(&["device", "list"]).await.exit, 0);
    let last = hub.ran(&["user", "remove", "owner"]).await;
    assert!(last.exit == 1 && last.err.contains("only owner"), "{last:?}");
    hub.finish().await;
}

#[tokio::test]
async fn a_login_from_another_machine_waits_for_a_word_and_ends_with_logout() {
    let hub = Hub::start().await;
    let laptop = Machine::new(&hub, "laptop");
    let mut login = Running::start(laptop.login(&["-o", "json"]));
    let code = login.json("the code", |line| line["user_code"].as_str().map(str::to_owned)).await;
    let waiting = hub.ran(&["approve"]).await;
    assert!(waiting.out.contains(&code) && waiting.out.contains("127.0.0.1"), "{waiting:?}");
    hub.told(&["approve", &code, "--scope", "devices:read", "--scope", "credentials:own"]).await;
    assert_eq!(login.ended().await, 0, "{}", login.err());
    let me = laptop.told(&["whoami"]).await;
    assert_eq!(me["principal"], json!({ "user": "owner" }));
    assert_eq!(laptop.ran(&["device", "list"]).await.exit, 0);
    assert_eq!(laptop.ran(&["user", "list"]).await.exit, 1, "no more than was approved");
    let token = token_of(&laptop.home.join(".config/hearthkey/contexts"));
    hub.remember_secret(&token);
    assert_eq!(http(&hub, &token).await, 200);
    assert_eq!(laptop.ran(&["logout"]).await.exit, 0);
    assert_eq!(http(&hub, &token).await, 401);

    let mut denied = Running::start(laptop.login(&["-o", "json"]));
    let code = denied.json("the code", |line| line["user_code"].as_str().map(str::to_owned)).await;
    hub.told(&["deny", &code]).await;
    assert_eq!(denied.ended().await, 1, "{}", denied.err());
    hub.finish().await;
}

fn token_of(contexts: &Path) -> String {
    std::fs::read_to_string(contexts.join("cottage.token")).expect("the context's token").trim().to_owned()
}

#[tokio::test]
async fn the_owner_sets_how_long_an_old_secret_works_beside_the_new_one() {
    let hub = Hub::start().await;
    let first = hub.add_with_secret("plug", "tasmota").await;
    let status = async |secret: &str| {
        let form = [("grant_type", "client_credentials"), ("client_id", "plug"), ("client_secret", secret)];
        hub.http().post(hub.url("/oauth2/token")).form(&form).send().await.expect("an answer").status().as_u16()
    };
    let rotate = async |overlap: &str| {
        let answer = hub.told(&["device", "rotate", "plug", "--secret", "--overlap", overlap]).await;
        let secret = answer["client_secret"].as_str().expect("a secret").to_owned();
        hub.remember_secret(&secret);
        secret
    };
    let second = rotate("2h").await;
    assert_eq!([status(&first).await, status(&second).await, status(&first).await], [200; 3], "two hours are not over");
    let third = rotate("0s").await;
    assert_eq!(status(&second).await, 200, "the new one was not used yet");
    assert_eq!([status(&third).await, status(&second).await, status(&third).await], [200, 400, 200]);
    let beyond = hub.ran(&["device", "rotate", "plug", "--secret", "--overlap", "31d"]).await;
    assert!(beyond.exit == 2 && beyond.err.contains("30days"), "{beyond:?}");
    hub.finish().await;
}

#[tokio::test]
async fn tokens_outlive_the_rotation_of_their_signing_key() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let before = lamp.token(&hub).await;
    let kids = async || {
        let keys: Value = hub.http().get(hub.url("/oauth2/jwks")).send().await.expect("an answer").json().await.expect("JSON");
        keys["keys"].as_array().expect("keys").iter().map(|key| key["kid"].clone()).collect::<Vec<_>>()
    };
    let old = kids().await;
    hub.told(&["signing-key", "rotate"]).await;
    let both = kids().await;
    assert_eq!((both.len(), old.len(), both.contains(&old[0])), (2, 1, true));
    let after = lamp.token(&hub).await;
    for token in [&before, &after] {
        assert_eq!(Wire::tls(&hub).await.connect(&Connect::by_password("lamp", token)).await.connack_code(), 0);
    }
    hub.finish().await;
}

#[tokio::test]
async fn an_exported_audit_log_is_proved_and_an_altered_one_is_not() {
    let hub = Hub::start().await;
    hub.add("lamp", "thermostat").await;
    hub.told(&["device", "revoke", "lamp"]).await;
    let proved = hub.told(&["audit", "verify"]).await;
    assert_eq!(proved["ok"], true, "{proved}");
    let head = proved["head"]["hash"].as_str().expect("a hash").to_owned();
    let file = hub.beside().join("audit.ndjson");
    let name = file.to_str().expect("UTF-8");
    assert_eq!(hub.ran(&["audit", "export", name]).await.exit, 0);
    let text = std::fs::read_to_string(&file).expect("written");
    assert!(text.contains("device.revoke"), "{text}");
    assert_eq!(hub.ran(&["audit", "verify", name, "--head", &head]).await.exit, 0);

    for (altered, what) in [
        (text.replacen("device.revoke", "device.enable", 1), "another action"),
        (text.lines().enumerate().filter(|(number, _)| *number != 1).map(|(_, line)| format!("{line}\n")).collect(), "one less"),
        (text.lines().rev().map(|line| format!("{line}\n")).collect(), "another order"),
    ] {
        std::fs::write(&file, altered).expect("written");
        let ran = hub.ran(&["audit", "verify", name, "--head", &head]).await;
        assert!(ran.exit == 1 && ran.out.contains("broken"), "{what}: {ran:?}");
    }
    let filtered = hub.told(&["audit", "list", "--action", "device.", "--outcome", "success"]).await;
    let actions: Vec<_> = filtered["items"].as_array().into_iter().flatten().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["device.add", "device.revoke"]);
    hub.finish().await;
}
