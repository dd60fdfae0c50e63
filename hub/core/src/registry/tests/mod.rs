//! Stories of a home, told to the registry alone: a [`World`] holds the registry, the store's rows, every key and the time.

mod bounds;
mod commands;
mod crashes;
mod credentials;
mod enrolment;
mod explaining;
mod forgeries;
mod holdings;
mod judging;
mod logins;
mod model;
mod passing_on;
mod rotation;
mod sweeping;
mod tokens;
mod twins;
mod users;

use super::*;
use crate::{
    Seconds, audit,
    claims::{ACCESS_TOKEN_TYPE, AccessTokenVerifier},
    jwt::{self, PublicKey},
    limits::MAX_KEYS_PER_CLIENT,
    oauth::{ClientAuthentication, OAuthError, TokenRequest},
    scope::Scope,
    secret::{CredentialKind, Pepper, PresentedCredential, Secret},
    session::{Authority, EndReason, Proof, Standing},
    write::MAX_VALUE_BYTES,
};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use ring::digest;
use serde_json::{Value, json};

pub(super) const ISSUER: &str = "https://hub.hearthkey.home.arpa:8443";
const START: UnixTime = UnixTime(1_780_000_000);

/// What one row and one batch of the store can hold (the store refuses more, and the hub stops).
const MAX_ROW_KEY: usize = 255;

const MAX_BATCH_ROWS: usize = 512;
const MAX_BATCH_BYTES: usize = 1 << 20;

/// A home: its registry, the rows that a restart would find, its devices' keys, its clock.
pub(in crate::registry) struct World {
    pub(in crate::registry) registry: Registry,
    pub(super) rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    pub(super) batches: Vec<Vec<Write>>,
    pub(in crate::registry) now: UnixTime,
    pub(super) pepper: Pepper,
    owner: Authority,
    serial: u64,
    /// What a story keeps for a later step.
    notes: BTreeMap<&'static str, String>,
}

/// A JWT in the making: everything about it can be altered before, and after, it is signed.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) header: Value,
    pub(super) claims: Value,
}

impl World {
    /// A home with an owner and nothing else.
    pub(super) fn new() -> Self {
        let pepper = Pepper::new([9; 32]);
        let (id, secret) = Secret::generate(CredentialKind::PersonalAccessToken, &[1; 64]);
        let mut world = Self {
            registry: Registry::new(),
            rows: BTreeMap::new(),
            batches: Vec::new(),
            now: START,
            owner: Authority { principal: Principal::User(name("owner")), proof: Proof::Credential(id.clone()) },
            pepper,
            serial: 0,
            notes: BTreeMap::new(),
        };
        let hash = world.pepper.hash(secret.expose().as_bytes());
        let change = world.registry.found(name("owner"), (id, hash), &world.context());
        world.commit(change);
        world
    }

    /// A home with an owner and enrolled thermostats.
    pub(in crate::registry) fn with_devices(devices: &[&str]) -> Self {
        let mut world = Self::new();
        for device in devices {
            world.enrol(device, "thermostat");
        }
        world
    }

    pub(super) fn context(&self) -> Context {
        Context { now: self.now, source: "192.0.2.7:4711".to_owned(), request_id: "r-1".to_owned() }
    }

    /// Makes a change durable and visible, as the shell does, and checks that the store can hold it.
    pub(super) fn commit<T>(&mut self, change: Change<T>) -> T {
        let mut bytes = 0;
        for write in &change.writes {
            let (key, value) = match write {
                Write::Put { key, value, .. } => (key, value.len()),
                Write::Delete { key, .. } => (key, 0),
            };
            assert!(key.len() <= MAX_ROW_KEY && value <= MAX_VALUE_BYTES, "a row of {value} bytes in {:?}", write.table());
            bytes += key.len() + value;
        }
        assert!(change.writes.len() <= MAX_BATCH_ROWS && bytes <= MAX_BATCH_BYTES, "a batch of {} rows", change.writes.len());
        self.registry.apply(&change.writes).expect("rows of our own making");
        write_to(&mut self.rows, &change.writes);
        if !change.writes.is_empty() {
            self.batches.push(change.writes);
        }
        change.answer
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Seconds(seconds));
    }

    /// A number that was not used before.
    pub(super) fn fresh(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The owner's permit for anything.
    pub(super) fn owner<P: Permission>(&self) -> UserPermit<'_, P> {
        self.registry.permit_user(&self.owner, self.now).expect("the owner may do everything")
    }

    /// Adds a device; the answer is its enrolment code.
    pub(in crate::registry) fn add(&mut self, device: &str, profile: &str) -> Result<Vec<u8>, DeviceRefused> {
        self.add_with_children(device, profile, &[])
    }

    pub(super) fn add_with_children(&mut self, device: &str, profile: &str, children: &[&str]) -> Result<Vec<u8>, DeviceRefused> {
        let (code, enrolment) = self.new_code();
        let new = NewDevice { id: name(device), profile: name(profile), children: children.iter().map(|id| name(id)).collect() };
        let change = self.registry.add_device(&self.owner(), new, enrolment, &self.context())?;
        self.commit(change);
        Ok(code)
    }

    /// Adds a device that has a secret; the answer is the secret.
    pub(super) fn add_with_secret(&mut self, device: &str, profile: &str) -> Result<String, DeviceRefused> {
        let (secret, enrolment) = self.new_secret();
        let new = NewDevice { id: name(device), profile: name(profile), children: Vec::new() };
        let change = self.registry.add_device(&self.owner(), new, enrolment, &self.context())?;
        self.commit(change);
        Ok(secret)
    }

    pub(in crate::registry) fn rotate_by_code(&mut self, device: &str) -> Result<Vec<u8>, DeviceRefused> {
        self.rotate_with_overlap(device, None)
    }

    pub(super) fn rotate_with_overlap(&mut self, device: &str, overlap: Option<Seconds>) -> Result<Vec<u8>, DeviceRefused> {
        let (code, enrolment) = self.new_code();
        let change = self.registry.rotate_device(&self.owner(), &name(device), enrolment, overlap, &self.context())?;
        self.commit(change);
        Ok(code)
    }

    pub(super) fn rotate_by_secret(&mut self, device: &str) -> Result<String, DeviceRefused> {
        let (secret, enrolment) = self.new_secret();
        let change = self.registry.rotate_device(&self.owner(), &name(device), enrolment, None, &self.context())?;
        self.commit(change);
        Ok(secret)
    }

    fn new_code(&mut self) -> (Vec<u8>, NewEnrolment) {
        let code = self.fresh().to_be_bytes().to_vec();
        let hash = self.pepper.hash(&code);
        (code, NewEnrolment::Code(hash))
    }

    fn new_secret(&mut self) -> (String, NewEnrolment) {
        let (id, secret) = Secret::generate(CredentialKind::ClientSecret, &random64(self.fresh()));
        let hash = self.pepper.hash(secret.expose().as_bytes());
        (secret.expose().to_owned(), NewEnrolment::Secret(id, hash))
    }

    pub(in crate::registry) fn register(&mut self, code: &[u8], key: &SigningKey) -> Result<Registered, RegistrationRefused> {
        let request =
            RegistrationRequest { code: self.pepper.hash(code), public_key: public(key), software: "acme 1.0".to_owned() };
        let change = self.registry.register(&request, &self.context())?;
        Ok(self.commit(change))
    }

    /// Adds a device and enrols it with `key(device)`.
    pub(super) fn enrol(&mut self, device: &str, profile: &str) {
        let code = self.add(device, profile).expect("a free name");
        self.register(&code, &key(device)).expect("the code is good");
    }

    /// Adds a revoked name again and enrols it with another key.
    pub(super) fn enrol_again(&mut self, device: &str, with_key: &str) {
        let code = self.add(device, "thermostat").expect("a revoked name is free again");
        self.register(&code, &key(with_key)).expect("the code is good");
    }

    pub(super) fn disable(&mut self, device: &str) {
        let change = self.registry.disable_device(&self.owner(), &name(device), &self.context()).expect("known");
        self.commit(change);
    }

    pub(super) fn enable(&mut self, device: &str) {
        let change = self.registry.enable_device(&self.owner(), &name(device), &self.context()).expect("known");
        self.commit(change);
    }

    pub(super) fn revoke(&mut self, device: &str) {
        let change = self.registry.revoke_device(&self.owner(), &name(device), &self.context()).expect("known");
        self.commit(change);
    }

    pub(super) fn revoke_if_there(&mut self, device: &str) {
        if self.registry.device(&name(device)).is_some() {
            self.revoke(device);
        }
    }

    pub(super) fn apply_profile(&mut self, toml: &str) {
        let profile = Profile::from_toml(toml).expect("legal");
        let change = self.registry.apply_profile(&self.owner(), profile, &self.context()).expect("room for a profile");
        self.commit(change);
    }

    pub(super) fn sweep(&mut self) {
        let change = self.registry.sweep(&self.context());
        self.commit(change);
    }

    /// The assertion that a well-made device would send now.
    pub(super) fn assertion(&mut self, device: &str, key: &SigningKey) -> Draft {
        let jti = format!("j-{}", self.fresh());
        Draft {
            header: json!({"alg": "ES256", "typ": "JWT", "kid": public(key).thumbprint()}),
            claims: json!({
                "iss": device, "sub": device, "aud": ISSUER, "jti": jti, "iat": self.now.0, "exp": self.now.0 + 60,
            }),
        }
    }

    /// Posts to the token endpoint: a form without its client authentication, and an assertion.
    pub(super) fn post(&mut self, form: &str, assertion: &str) -> Result<IssuedToken, OAuthError> {
        self.post_as(ClientAuthentication::Assertion { client_id: None, assertion }, form)
    }

    pub(super) fn post_as(&mut self, authentication: ClientAuthentication<'_>, form: &str) -> Result<IssuedToken, OAuthError> {
        let client = self.registry.authenticate_client(&authentication, &audiences(), &self.pepper, self.now)?;
        self.issue(&client, form)
    }

    pub(super) fn issue(&mut self, client: &AuthenticatedClient, form: &str) -> Result<IssuedToken, OAuthError> {
        let request = TokenRequest::parse(form.as_bytes())?;
        let jti = format!("t-{}", self.fresh()).into();
        let change = self.registry.issue_token(client, &request, ISSUER, jti, &self.context())?;
        Ok(self.commit(change))
    }

    /// A token for a device that has `key`.
    pub(super) fn token_by(&mut self, device: &str, key: &SigningKey) -> Result<IssuedToken, OAuthError> {
        let assertion = self.assertion(device, key).sign(key);
        self.post(GRANT, &assertion)
    }

    /// A token for a device that was enrolled with `key(device)`.
    pub(super) fn token(&mut self, device: &str) -> Result<IssuedToken, OAuthError> {
        self.token_by(device, &key(device))
    }

    pub(super) fn token_by_secret(&mut self, device: &str, secret: &str) -> Result<IssuedToken, OAuthError> {
        self.post_as(ClientAuthentication::Secret { client_id: device, client_secret: secret }, GRANT)
    }

    /// Asks for the end of a token as RFC 7009 has it.
    pub(super) fn revoke_token_by(&mut self, device: &str, key: &SigningKey, token: &IssuedToken) -> Result<(), OAuthError> {
        let assertion = self.assertion(device, key).sign(key);
        let authentication = ClientAuthentication::Assertion { client_id: None, assertion: &assertion };
        let client = self.registry.authenticate_client(&authentication, &audiences(), &self.pepper, self.now)?;
        let change = self.registry.revoke_token(&client, &token.claims, &self.context())?;
        self.commit(change);
        let replayed = self.registry.revoke_token(&client, &token.claims, &self.context());
        assert!(replayed.is_err(), "an assertion counts once, here as well");
        Ok(())
    }

    /// What a token amounts to now.
    pub(super) fn judge(&self, token: &IssuedToken) -> Result<Standing, EndReason> {
        self.registry.judge(&token.authority(), self.now)
    }

    pub(super) fn device(&self, device: &str) -> &DeviceRecord {
        self.registry.device(&name(device)).expect("known")
    }

    /// The audit chain as it is stored, proved; the answer is its entries.
    pub(super) fn audit(&self) -> Vec<audit::AuditRecord> {
        let rows: Vec<&[u8]> =
            self.rows.iter().filter(|((table, _), _)| *table == Table::Audit).map(|(_, row)| row.as_slice()).collect();
        audit::verify(self.registry.audit_anchor(), rows.iter().copied(), self.registry.audit_head()).expect("the chain holds");
        rows.iter().map(|row| serde_json::from_slice(row).expect("an entry")).collect()
    }
}

/// Every story ends with a restart: what was stored is all that the registry knew.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.audit();
            assert!(restarted(&self.rows) == self.registry, "a restart finds another registry");
        }
    }
}

impl Draft {
    pub(super) fn header(mut self, member: &str, value: Value) -> Self {
        self.header[member] = value;
        self
    }

    pub(super) fn claim(mut self, member: &str, value: Value) -> Self {
        self.claims[member] = value;
        self
    }

    pub(super) fn without(mut self, member: &str) -> Self {
        self.header.as_object_mut().expect("an object").remove(member);
        self.claims.as_object_mut().expect("an object").remove(member);
        self
    }

    pub(super) fn sign(&self, key: &SigningKey) -> String {
        sign(&self.header.to_string(), &self.claims.to_string(), key)
    }
}

pub(super) const GRANT: &str = "grant_type=client_credentials";

/// Signs any two texts as header and claims.
pub(super) fn sign(header: &str, claims: &str, key: &SigningKey) -> String {
    let input = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let signature: Signature = key.sign(input.as_bytes());
    jwt::join(&input, &signature.to_bytes())
}

pub(super) fn base64url(bytes: &[u8]) -> String {
    use base64ct::Encoding;
    base64ct::Base64UrlUnpadded::encode_string(bytes)
}

/// The key of that name: the same in each run.
pub(in crate::registry) fn key(name: &str) -> SigningKey {
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    SigningKey::from_slice(digest.as_ref()).expect("less than the order of the group but for one in 2^32")
}

pub(in crate::registry) fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_point(key.verifying_key().to_encoded_point(false).as_bytes()).expect("an uncompressed point")
}

/// The hub's access token as text, and what verifies it.
pub(super) fn signed(token: &IssuedToken) -> String {
    let hub = key("hub");
    let input = jwt::signing_input(ACCESS_TOKEN_TYPE, &public(&hub).thumbprint(), &token.claims);
    let signature: Signature = hub.sign(input.as_bytes());
    jwt::join(&input, &signature.to_bytes())
}

pub(super) fn verifier() -> AccessTokenVerifier {
    AccessTokenVerifier { keys: vec![public(&key("hub"))], issuer: ISSUER.to_owned(), audience: ISSUER.to_owned() }
}

pub(super) fn audiences() -> Vec<String> {
    vec![ISSUER.to_owned(), format!("{ISSUER}/oauth2/token")]
}

pub(in crate::registry) fn name(text: &str) -> DeviceId {
    DeviceId::parse(text).expect("legal")
}

pub(super) fn random64(seed: u64) -> [u8; 64] {
    let digest = digest::digest(&digest::SHA512, &seed.to_be_bytes());
    digest.as_ref().try_into().expect("64 bytes")
}

/// Rows as the store keeps them.
pub(super) fn write_to(rows: &mut BTreeMap<(Table, Vec<u8>), Vec<u8>>, writes: &[Write]) {
    for write in writes {
        match write {
            Write::Put { table, key, value } => drop(rows.insert((*table, key.clone()), value.clone())),
            Write::Delete { table, key } => drop(rows.remove(&(*table, key.clone()))),
        }
    }
}

/// The registry that a restart finds.
pub(super) fn restarted(rows: &BTreeMap<(Table, Vec<u8>), Vec<u8>>) -> Registry {
    let mut registry = Registry::new();
    let put = |((table, key), value): (&(Table, Vec<u8>), &Vec<u8>)| Write::Put {
        table: *table,
        key: key.clone(),
        value: value.clone(),
    };
    registry.apply(&rows.iter().map(put).collect::<Vec<_>>()).expect("rows of our own making");
    registry
}
