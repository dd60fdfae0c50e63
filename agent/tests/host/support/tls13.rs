//! A TLS 1.3 server made by hand (RFC 8446, TLS_AES_128_GCM_SHA256, P-256), so that it can misbehave in every way that
//! rustls cannot be talked into.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use p256::ecdh::EphemeralSecret;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub const HANDSHAKE: u8 = 22;
pub const ALERT: u8 = 21;
pub const APPLICATION_DATA: u8 = 23;

/// One direction's keys.
pub struct Keys {
    aead: Aes128Gcm,
    iv: [u8; 12],
    sequence: u64,
    secret: [u8; 32],
}

impl Keys {
    fn new(secret: [u8; 32]) -> Self {
        let key: [u8; 16] = expand_label(&secret, "key", &[]);
        let iv = expand_label(&secret, "iv", &[]);
        Self { aead: Aes128Gcm::new_from_slice(&key).unwrap(), iv, sequence: 0, secret }
    }

    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, counter) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= counter;
        }
        self.sequence += 1;
        nonce
    }

    /// A whole record whose inner plaintext is exactly `inner` (content, content type, padding).
    pub fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        let length = (inner.len() + 16) as u16;
        let mut record = vec![APPLICATION_DATA, 3, 3];
        record.extend(length.to_be_bytes());
        let nonce = self.nonce();
        let payload = Payload { msg: inner, aad: &record };
        let sealed = self.aead.encrypt(Nonce::from_slice(&nonce), payload).unwrap();
        record.extend(sealed);
        record
    }

    pub fn open(&mut self, record: &[u8]) -> Option<Vec<u8>> {
        let nonce = self.nonce();
        let payload = Payload { msg: &record[5..], aad: &record[..5] };
        self.aead.decrypt(Nonce::from_slice(&nonce), payload).ok()
    }

    fn verify_data(&self, transcript: &Sha256) -> [u8; 32] {
        let key: [u8; 32] = expand_label(&self.secret, "finished", &[]);
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&key).unwrap();
        mac.update(&transcript.clone().finalize());
        mac.finalize().into_bytes().into()
    }
}

fn expand_label<const N: usize>(secret: &[u8; 32], label: &str, context: &[u8]) -> [u8; N] {
    let mut info = (N as u16).to_be_bytes().to_vec();
    info.push(6 + label.len() as u8);
    info.extend(b"tls13 ");
    info.extend(label.as_bytes());
    info.push(context.len() as u8);
    info.extend(context);
    let mut out = [0; N];
    Hkdf::<Sha256>::from_prk(secret).unwrap().expand(&info, &mut out).unwrap();
    out
}

fn extract(salt: &[u8; 32], input: &[u8]) -> [u8; 32] {
    Hkdf::<Sha256>::extract(Some(salt), input).0.into()
}

/// The server, after it read the ClientHello.
pub struct Server {
    pub stream: DuplexStream,
    transcript: Sha256,
    client_share: p256::PublicKey,
    /// Keys in use; `None` before ServerHello.
    pub sending: Option<Keys>,
    pub receiving: Option<Keys>,
    handshake_secret: [u8; 32],
}

/// What a ServerHello holds; the default is right.
#[derive(Clone)]
pub struct Hello {
    pub legacy_version: [u8; 2],
    pub random: [u8; 32],
    pub session_id: Vec<u8>,
    pub cipher_suite: [u8; 2],
    pub compression: u8,
    pub supported_versions: Option<[u8; 2]>,
    pub group: [u8; 2],
    pub more_extensions: Vec<u8>,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            legacy_version: [3, 3],
            random: [0x5a; 32],
            session_id: vec![],
            cipher_suite: [0x13, 0x01],
            compression: 0,
            supported_versions: Some([3, 4]),
            group: [0, 0x17],
            more_extensions: vec![],
        }
    }
}

/// A handshake message: type, 24-bit length, body.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    message
}

pub fn encrypted_extensions() -> Vec<u8> {
    message(8, &[0, 0])
}

/// A CertificateRequest for ecdsa_secp256r1_sha256.
pub fn certificate_request() -> Vec<u8> {
    message(13, &[0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 3])
}

/// A NewSessionTicket (RFC 8446 4.6.1): a nonce, a ticket, and extensions.
pub fn new_session_ticket(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 0x1c, 0x20, 1, 2, 3, 4];
    body.extend([2, 0, 1]);
    body.extend([0, 5]);
    body.extend(b"tickt");
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    message(4, &body)
}

pub fn certificate(chain: &[&[u8]]) -> Vec<u8> {
    let mut list = vec![];
    for der in chain {
        list.extend(&(der.len() as u32).to_be_bytes()[1..]);
        list.extend(*der);
        list.extend([0, 0]);
    }
    let mut body = vec![0];
    body.extend(&(list.len() as u32).to_be_bytes()[1..]);
    body.extend(list);
    message(11, &body)
}

pub fn plaintext_record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    record.extend((content.len() as u16).to_be_bytes());
    record.extend(content);
    record
}

async fn read_record(stream: &mut DuplexStream) -> Option<Vec<u8>> {
    let mut record = vec![0; 5];
    stream.read_exact(&mut record).await.ok()?;
    let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + length, 0);
    stream.read_exact(&mut record[5..]).await.ok()?;
    Some(record)
}

impl Server {
    /// Reads the ClientHello.
    pub async fn accept(mut stream: DuplexStream) -> Self {
        let record = read_record(&mut stream).await.expect("a ClientHello");
        let hello = &record[5..];
        assert_eq!((record[0], hello[0]), (HANDSHAKE, 1));
        // Key share extension: type 51, group 0x0017, a point of 65 bytes.
        let at = hello.windows(5).position(|window| window == [0, 0x17, 0, 65, 4]).expect("a P-256 share") + 4;
        let client_share = p256::PublicKey::from_sec1_bytes(&hello[at..at + 65]).unwrap();
        let mut transcript = Sha256::new();
        transcript.update(hello);
        Self { stream, transcript, client_share, sending: None, receiving: None, handshake_secret: [0; 32] }
    }

    /// The content of a ServerHello as `hello` says; derives the handshake keys.
    pub fn server_hello(&mut self, hello: &Hello) -> Vec<u8> {
        let secret = EphemeralSecret::random(&mut p256_rng());
        let share = secret.public_key().to_encoded_point(false);
        let mut extensions = vec![];
        if let Some(version) = hello.supported_versions {
            extensions.extend([0, 43, 0, 2]);
            extensions.extend(version);
        }
        extensions.extend([0, 51, 0, 69]);
        extensions.extend(hello.group);
        extensions.extend([0, 65]);
        extensions.extend(share.as_bytes());
        extensions.extend(&hello.more_extensions);
        let mut body = hello.legacy_version.to_vec();
        body.extend(hello.random);
        body.push(hello.session_id.len() as u8);
        body.extend(&hello.session_id);
        body.extend(hello.cipher_suite);
        body.push(hello.compression);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let content = message(2, &body);
        self.transcript.update(&content);

        let empty: [u8; 32] = Sha256::digest([]).into();
        let early = extract(&[0; 32], &[0; 32]);
        let derived = expand_label(&early, "derived", &empty);
        let shared = secret.diffie_hellman(&self.client_share);
        self.handshake_secret = extract(&derived, shared.raw_secret_bytes());
        let transcript = self.transcript.clone().finalize();
        self.sending = Some(Keys::new(expand_label(&self.handshake_secret, "s hs traffic", &transcript)));
        self.receiving = Some(Keys::new(expand_label(&self.handshake_secret, "c hs traffic", &transcript)));
        content
    }

    /// Sends a right ServerHello.
    pub async fn say_hello(&mut self) {
        let content = self.server_hello(&Hello::default());
        self.send_raw(&plaintext_record(HANDSHAKE, &content)).await;
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        // The device may have hung up already; what it made of it is what the test asks.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Adds handshake messages to the transcript and sends them encrypted, in one record.
    pub async fn send_messages(&mut self, messages: &[Vec<u8>]) {
        let mut inner = messages.concat();
        self.transcript.update(&inner);
        inner.push(HANDSHAKE);
        self.send_sealed(&inner).await;
    }

    pub async fn send_sealed(&mut self, inner: &[u8]) {
        let record = self.sending.as_mut().unwrap().seal(inner);
        self.send_raw(&record).await;
    }

    /// CertificateVerify over the transcript so far and `pending` messages.
    pub fn certificate_verify(&self, pending: &[Vec<u8>], key: &SigningKey) -> Vec<u8> {
        let mut transcript = self.transcript.clone();
        transcript.update(pending.concat());
        let mut content = vec![0x20; 64];
        content.extend(b"TLS 1.3, server CertificateVerify\0");
        content.extend(transcript.finalize());
        let signature: Signature = key.sign(&content);
        let der = signature.to_der();
        let mut body = vec![4, 3];
        body.extend((der.as_bytes().len() as u16).to_be_bytes());
        body.extend(der.as_bytes());
        message(15, &body)
    }

    /// Finished over the transcript so far and `pending` messages.
    pub fn finished(&self, pending: &[Vec<u8>]) -> Vec<u8> {
        let mut transcript = self.transcript.clone();
        transcript.update(pending.concat());
        message(20, &self.sending.as_ref().unwrap().verify_data(&transcript))
    }

    /// Switches to the application keys, as after our Finished. Returns what the client sends until its Finished, decrypted.
    pub async fn established(&mut self) -> Option<Vec<u8>> {
        let empty: [u8; 32] = Sha256::digest([]).into();
        let derived = expand_label(&self.handshake_secret, "derived", &empty);
        let master = extract(&derived, &[0; 32]);
        let transcript = self.transcript.clone().finalize();
        let record = read_record(&mut self.stream).await?;
        let seen = self.receiving.as_mut().unwrap().open(&record)?;
        self.sending = Some(Keys::new(expand_label(&master, "s ap traffic", &transcript)));
        self.receiving = Some(Keys::new(expand_label(&master, "c ap traffic", &transcript)));
        Some(seen)
    }

    /// The next record of the client, decrypted: content, then its type. `None` once it hung up.
    pub async fn receive(&mut self) -> Option<Vec<u8>> {
        let record = read_record(&mut self.stream).await?;
        self.receiving.as_mut().unwrap().open(&record)
    }

    /// ServerHello and the flight that follows it, of the right shape, with whichever key.
    pub async fn send_flight(&mut self, chain: &[&[u8]], key: &SigningKey) {
        self.say_hello().await;
        let mut flight = vec![encrypted_extensions(), certificate(chain)];
        flight.push(self.certificate_verify(&flight, key));
        flight.push(self.finished(&flight));
        self.send_messages(&flight).await;
    }

    /// A whole, right handshake.
    pub async fn handshake(&mut self, chain: &[&[u8]], key: &SigningKey) {
        self.send_flight(chain, key).await;
        self.established().await.expect("the client's Finished");
    }
}

fn p256_rng() -> hearthkey_agent::keys::Drbg {
    hearthkey_agent::keys::Drbg::from_seed(&[0x42; 32], "a hostile server needs no secrets")
}
