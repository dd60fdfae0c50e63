//! A token that is revoked between the moment when its request came and the moment when that is decided changes nothing.

use crate::home::{Device, Home, header};
use futures_util::{FutureExt, poll};
use hearthkey::{
    approvals::Wanted,
    store::{Committed, OnDone, Row, SledStore, Store, StoreError},
};
use hearthkey_core::{
    Seconds,
    jwt::Jwk,
    registry::{ManageDevices, Registry},
    write::{Sequence, Table, Write},
};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, mpsc},
};
use tokio::sync::watch;

/// A disk that can be made to take its time: what is committed meanwhile is decided, and not yet seen.
struct Slow {
    disk: SledStore,
    waiting: Mutex<Option<Vec<Batch>>>,
    count: watch::Sender<usize>,
    /// What the next backup waits for, once it has begun.
    backup: Mutex<Option<mpsc::Receiver<()>>>,
    backups_begun: watch::Sender<usize>,
}

struct Batch {
    after: Sequence,
    writes: Vec<Write>,
    on_done: OnDone,
    from_reserve: bool,
}

impl Slow {
    fn over(disk: SledStore) -> Arc<Self> {
        let (waiting, backup) = (Mutex::default(), Mutex::default());
        Arc::new(Self { disk, waiting, count: watch::Sender::new(0), backup, backups_begun: watch::Sender::new(0) })
    }

    fn hold(&self) {
        *self.waiting.lock().expect("no panic") = Some(Vec::new());
        self.count.send_replace(0);
    }

    fn release(&self) {
        let mut waiting = self.waiting.lock().expect("no panic");
        for Batch { after, writes, on_done, from_reserve } in waiting.take().into_iter().flatten() {
            let taken = match from_reserve {
                true => self.disk.commit_from_reserve(after, writes, on_done),
                false => self.disk.commit(after, writes, on_done),
            };
            taken.expect("room");
        }
    }

    /// When more than so many batches wait.
    async fn more_than(&self, count: usize) {
        self.count.subscribe().wait_for(|waiting| *waiting > count).await.expect("the store is there");
    }

    fn keep(&self, batch: Batch) -> Result<Sequence, StoreError> {
        let mut waiting = self.waiting.lock().expect("no panic");
        let Some(waiting) = &mut *waiting else {
            let Batch { after, writes, on_done, from_reserve } = batch;
            return match from_reserve {
                true => self.disk.commit_from_reserve(after, writes, on_done),
                false => self.disk.commit(after, writes, on_done),
            };
        };
        let sequence = Sequence(batch.after.0 + 1);
        waiting.push(batch);
        self.count.send_replace(waiting.len());
        Ok(sequence)
    }
}

impl Store for Slow {
    fn load(&self) -> Result<Vec<Row>, StoreError> {
        self.disk.load()
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.disk.scan(table, from, limit)
    }

    fn last_sequence(&self) -> Sequence {
        self.disk.last_sequence()
    }

    fn commit(&self, after: Sequence, writes: Vec<Write>, on_done: OnDone) -> Result<Sequence, StoreError> {
        self.keep(Batch { after, writes, on_done, from_reserve: false })
    }

    fn commit_from_reserve(&self, after: Sequence, writes: Vec<Write>, on_done: OnDone) -> Result<Sequence, StoreError> {
        self.keep(Batch { after, writes, on_done, from_reserve: true })
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        self.disk.check_writable()
    }

    fn since(&self, after: Sequence) -> Result<Vec<Arc<Committed>>, StoreError> {
        self.disk.since(after)
    }

    fn back_up_as_asked(&self) -> Result<PathBuf, StoreError> {
        let waits = self.backup.lock().expect("no panic").take();
        self.backups_begun.send_modify(|begun| *begun += 1);
        if let Some(waits) = waits {
            waits.recv().expect("the test ends it");
        }
        self.disk.back_up_as_asked()
    }

    fn reopen(&self) -> Result<Sequence, StoreError> {
        self.disk.reopen()
    }
}

/// A request that changes something, and the status of its success.
struct Wish {
    method: Method,
    path: String,
    content_type: &'static str,
    body: String,
    succeeds: u16,
}

fn wish(method: Method, path: impl Into<String>, body: &Value, succeeds: u16) -> Wish {
    Wish { method, path: path.into(), content_type: "application/json", body: body.to_string(), succeeds }
}

async fn ask(home: &Home, token: &str, wish: &Wish) -> Response {
    let url = home.url(&format!("/api/v1{}", wish.path));
    let request = home.client.request(wish.method.clone(), url).bearer_auth(token).header("content-type", wish.content_type);
    request.body(wish.body.clone()).send().await.expect("an answer")
}

/// The id and secret of a credential that the owner makes.
async fn credential(home: &Home, kind: &str, body: &Value) -> (String, String) {
    let made = ask(home, &home.owner, &wish(Method::POST, format!("/credentials/{kind}"), body, 201)).await;
    let made: Value = made.json().await.expect("JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&made["credential"]["id"]), text(&made["secret"]))
}

async fn every_change(home: &Home) -> Vec<Wish> {
    use Method as M;
    for id in ["lamp", "oven"] {
        home.enrolled(id).await;
    }
    let (other_token, _) = credential(home, "personal-access-tokens", &json!({"name": "other"})).await;
    let (spare_token, _) = credential(home, "personal-access-tokens", &json!({"name": "spare"})).await;
    let key = json!({"name": "key", "integration": "assistant", "profile": "home-assistant"});
    let (key_id, _) = credential(home, "api-keys", &key).await;
    let login = home.hub.ask_for_approval(Wanted::Login { source: "192.0.2.7".to_owned() }).expect("room");
    let porch: Jwk = serde_json::from_value(Device::new("porch").jwk()).expect("a JWK");
    let owner = home.hub.admit(&home.owner).expect("the owner").0;
    home.hub.view(|registry| {
        let permit = registry.permit_user::<ManageDevices>(&owner, home.hub.now()).expect("the owner may");
        home.hub.approvals().open_join_window(&permit, home.hub.now().plus(Seconds(60)));
    });
    let porch = Wanted::Join {
        public_key: porch.to_public_key().expect("a key"),
        software: String::new(),
        source: "192.0.2.8".to_owned(),
        commitment: None,
    };
    let porch = home.hub.ask_for_approval(porch).expect("room");
    let profile = "name = \"mine\"\n[permissions.telemetry]\npublish = [\"dev/${device}/tele/#\"]\n";
    vec![
        wish(M::POST, "/devices", &json!({"id": "plug", "profile": "switch"}), 201),
        wish(M::POST, "/devices/lamp/rotate", &json!({}), 200),
        wish(M::POST, "/devices/lamp/disable", &json!({}), 200),
        wish(M::POST, "/devices/lamp/enable", &json!({}), 200),
        wish(M::POST, "/devices/oven/revoke", &json!({}), 200),
        wish(M::PUT, "/devices/lamp/twin", &json!({"target": 20}), 200),
        wish(M::PATCH, "/devices/lamp/twin", &json!({"target": 21}), 200),
        wish(M::POST, "/devices/lamp/commands/identify", &json!({}), 202),
        wish(M::POST, "/users", &json!({"name": "kim", "role": "viewer"}), 201),
        wish(M::PATCH, "/users/kim", &json!({"role": "member"}), 200),
        wish(M::DELETE, "/users/kim", &json!({}), 204),
        wish(M::PUT, "/me/password", &json!({"password": "a long enough password"}), 204),
        Wish { content_type: "application/toml", body: profile.to_owned(), ..wish(M::PUT, "/profiles/mine", &json!({}), 201) },
        wish(M::POST, "/credentials/personal-access-tokens", &json!({"name": "backup"}), 201),
        wish(M::POST, format!("/credentials/{other_token}/rotate"), &json!({}), 201),
        wish(M::DELETE, format!("/credentials/{spare_token}"), &json!({}), 204),
        wish(M::POST, "/credentials/api-keys", &key, 201),
        wish(M::POST, format!("/credentials/{key_id}/roll"), &json!({"overlap_s": 60}), 201),
        wish(M::POST, "/signing-keys/rotate", &json!({}), 204),
        wish(M::POST, "/backups", &json!({}), 201),
        wish(M::POST, "/join", &json!({"for_s": 60}), 200),
        wish(M::POST, format!("/approvals/{}", login.user_code), &json!({}), 200),
        wish(M::POST, format!("/approvals/{}", porch.user_code), &json!({"name": "porch", "profile": "sensor"}), 200),
    ]
}

#[tokio::test]
async fn a_token_that_is_revoked_while_its_request_waits_changes_nothing() {
    let mut store = None;
    let home = Home::open_over(|disk| store.insert(Slow::over(disk)).clone()).await;
    let store = store.expect("opened");
    let owner = home.hub.admit(&home.owner).expect("the owner").0;
    for wish in every_change(&home).await {
        let (id, token) = credential(&home, "personal-access-tokens", &json!({"name": "short-lived"})).await;
        let me = home.get("/api/v1/me").bearer_auth(&token).send().await.expect("an answer");
        assert_eq!(me.status(), 200);
        let context = home.hub.context(None, "");
        // The use of the token is noted: nothing but what this test does is written from now on.
        home.hub
            .decide_always(|registry| {
                registry.note_use(&id, &context).unwrap_or_else(|| registry.record(Vec::new(), context.now))
            })
            .await
            .expect("kept");
        let before = home.hub.audit_chain().1.seq;

        store.hold();
        let mut revoked = pin!(home.hub.decide_to_end(|registry: &Registry| {
            let permit = registry.permit_user(&owner, context.now).expect("the owner may");
            registry.revoke_credential(&permit, &id, &context)
        }));
        assert!(poll!(&mut revoked).is_pending(), "decided, and not yet on the disk");
        assert!(home.hub.admit(&token).is_ok(), "so the token is good when the request comes");
        let refused = tokio::select! {
            answer = ask(&home, &token, &wish) => answer,
            () = store.more_than(1) => panic!("{} {} was decided for a revoked token", wish.method, wish.path),
        };
        assert_eq!(refused.status(), 401, "{} {}", wish.method, wish.path);
        assert!(header(&refused, "www-authenticate").contains("error=\"invalid_token\""));
        assert_eq!(refused.json::<Value>().await.expect("JSON")["code"], "invalid_token");
        assert!(revoked.as_mut().now_or_never().is_none());
        store.release();
        revoked.await.expect("revoked");
        assert_eq!(home.hub.audit_chain().1.seq, before + 1, "{} {} left a trace", wish.method, wish.path);

        let done = ask(&home, &home.owner, &wish).await;
        assert_eq!(done.status(), wish.succeeds, "{} {}: {}", wish.method, wish.path, done.text().await.expect("a text"));
    }
}

#[tokio::test]
async fn a_backup_that_nobody_waits_for_any_more_is_audited() {
    let mut store = None;
    let home = Home::open_over(|disk| store.insert(Slow::over(disk)).clone()).await;
    let store = store.expect("opened");
    let (go_on, waits) = mpsc::channel();
    *store.backup.lock().expect("no panic") = Some(waits);
    let context = home.hub.context(None, "");
    let mut begun = store.backups_begun.subscribe();
    tokio::select! {
        _ = home.hub.back_up(|_| Ok::<_, Infallible>("user owner".to_owned()), &context) => panic!("it waits for this test"),
        begun = begun.wait_for(|begun| *begun == 1) => drop(begun.expect("the store is there")),
    }
    let before = home.hub.audit_chain().1.seq;
    let mut changes = home.hub.audit_changes();
    go_on.send(()).expect("it waits");
    changes.wait_for(|last| *last > before).await.expect("the hub is there");
    let entry = home.hub.audit_rows(before, 1).expect("read").remove(0);
    let entry: Value = serde_json::from_slice(&entry).expect("JSON");
    assert_eq!((&entry["action"], &entry["actor"]), (&json!("backup.write"), &json!("user owner")));
}

#[tokio::test]
async fn the_join_window_opens_when_the_audit_log_has_it_and_not_before() {
    let mut store = None;
    let home = Home::open_over(|disk| store.insert(Slow::over(disk)).clone()).await;
    let store = store.expect("opened");
    let me = home.get("/api/v1/me").bearer_auth(&home.owner).send().await.expect("an answer");
    assert_eq!(me.status(), 200);
    let porch: Jwk = serde_json::from_value(Device::new("porch").jwk()).expect("a JWK");
    let porch = || Wanted::Join {
        public_key: porch.to_public_key().expect("a key"),
        software: String::new(),
        source: "192.0.2.8".to_owned(),
        commitment: None,
    };
    let before = home.hub.audit_chain().1.seq;
    store.hold();
    let opens = wish(Method::POST, "/join", &json!({"for_s": 60}), 200);
    let mut opening = pin!(ask(&home, &home.owner, &opens));
    tokio::select! {
        answer = &mut opening => panic!("{} before the disk had it", answer.status()),
        () = store.more_than(0) => {}
    }
    assert!(home.hub.ask_for_approval(porch()).is_err(), "decided, and not yet on the disk");
    store.release();
    assert_eq!(opening.await.status(), 200);
    home.hub.ask_for_approval(porch()).expect("the window is open");
    let entries = home.hub.audit_rows(before, usize::MAX).expect("read");
    assert!(entries.iter().any(|row| String::from_utf8_lossy(row).contains("join.open")));
}
