//! TLS 1.3 to the hub. The one file that names the TLS engine, embedded-tls 0.19.
//!
//! The engine leaves holes (it accepts a handshake without a certificate, its own verifier is lax, some records panic it);
//! four neighbours close them: [`guard`] admits only legal records, [`hello`] compares ServerHello with the offer,
//! [`verifier`] judges the chain and keeps the proof without which there is no [`Connection`], [`content`] decrypts, and lets
//! the engine see no message that would panic it.

mod content;
mod guard;
mod hello;
mod verifier;
mod x509;

pub use guard::RecordError;
pub use hello::HelloError;
#[cfg(feature = "sans-io")]
pub(crate) use verifier::judge_chain;
pub use verifier::{HUB_NAME, HomeCa, MAX_CA_SUBJECT, Refusal, TrustAnchor};

use crate::keys::Drbg;
use crate::time::UnixTime;
use embedded_io_async::{ErrorKind, Read, Write};
use embedded_tls as engine;
use embedded_tls::{
    Aes128GcmSha256, CertificateEntryRef, CertificateRef, CertificateVerifyRef, CryptoProvider, FlushPolicy, SignatureScheme,
    TlsCipherSuite, TlsConfig, TlsConnection, TlsContext, TlsVerifier,
};
use guard::{GuardBuffers, MAX_CIPHERTEXT, RecordGuard, Shared};
use rand_core::CryptoRngCore;
use sha2::{Digest as _, Sha256};
use verifier::{ServerAuthenticated, Verifier};
use zeroize::Zeroize as _;

/// Plaintext bytes in one outgoing record at most.
const MAX_OUTGOING_PLAINTEXT: usize = 1024;
/// What one outgoing record adds: header, content type, tag.
const OUTGOING_OVERHEAD: usize = 5 + 1 + 16;

/// Why there is no connection, or no longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsError {
    /// The server is not our hub, or could not prove it.
    Refused(Refusal),
    /// The server sent a record that is not legal where it came.
    Record(RecordError),
    /// The server ended the handshake, or the engine found it faulty.
    Handshake,
    /// The server said goodbye (close_notify).
    Closed,
    /// The socket failed, or closed without goodbye.
    Io(ErrorKind),
    /// The server sent an encrypted message that has no place where it came, or one that the agent does not know: a KeyUpdate, say.
    UnexpectedMessage,
    /// The engine gave up: a record that does not decrypt, or one that breaks TLS otherwise.
    Engine,
}

impl TlsError {
    /// Whether the connection ended, as when a hub stops; everything else is a server that is not the hub.
    #[must_use]
    pub fn is_broken_connection(&self) -> bool {
        match self {
            Self::Io(_) | Self::Closed => true,
            Self::Refused(_) | Self::Record(_) | Self::Handshake | Self::UnexpectedMessage | Self::Engine => false,
        }
    }
}

/// The buffers of one TLS connection, some 8 KB. Wiped when a connection ends.
pub struct TlsBuffers {
    guard: GuardBuffers,
    read: [u8; MAX_CIPHERTEXT],
    write: [u8; MAX_OUTGOING_PLAINTEXT + engine::TLS_RECORD_OVERHEAD],
    shared: Shared,
}

impl core::fmt::Debug for TlsBuffers {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("TlsBuffers")
    }
}

impl Default for TlsBuffers {
    fn default() -> Self {
        Self::new()
    }
}

impl TlsBuffers {
    /// Empty buffers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            guard: GuardBuffers::new(),
            read: [0; MAX_CIPHERTEXT],
            write: [0; MAX_OUTGOING_PLAINTEXT + engine::TLS_RECORD_OVERHEAD],
            shared: Shared::new(),
        }
    }

    /// Overwrites whatever a former connection left.
    pub fn wipe(&mut self) {
        self.guard.wipe();
        self.read.zeroize();
        self.write.zeroize();
        self.shared = Shared::new();
    }
}

/// A TLS connection of which nothing is proven yet. Some 1.3 KB: it stays where it was made.
pub struct Channel<'a, R: Read + 'a, W: Write + 'a> {
    engine: TlsConnection<'a, RecordGuard<'a, R, W>, CheckedSuite>,
    shared: &'a Shared,
}

impl<R: Read, W: Write> core::fmt::Debug for Channel<'_, R, W> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Channel")
    }
}

/// An encrypted connection to a server that proved to be the hub. Only [`Channel::authenticated`] makes one.
pub struct Connection<'c, 'a, R: Read + 'a, W: Write + 'a> {
    engine: &'c mut TlsConnection<'a, RecordGuard<'a, R, W>, CheckedSuite>,
    shared: &'a Shared,
    proof: ServerAuthenticated,
}

impl<R: Read, W: Write> core::fmt::Debug for Connection<'_, '_, R, W> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Connection").field("proof", &self.proof).finish_non_exhaustive()
    }
}

impl<'a, R: Read, W: Write> Channel<'a, R, W> {
    /// A connection over a socket's halves; nothing is sent yet.
    #[must_use]
    pub fn new(reader: R, writer: W, buffers: &'a mut TlsBuffers) -> Self {
        buffers.wipe();
        let TlsBuffers { guard, read, write, shared } = buffers;
        let shared = &*shared;
        let mut engine = TlsConnection::new(RecordGuard::new(reader, writer, guard, shared), read, write);
        engine.set_flush_policy(FlushPolicy::Relaxed);
        Self { engine, shared }
    }

    /// Performs the handshake, once, and the check that the engine leaves out: that a certificate came, that the anchor vouches
    /// for it, and that the server holds its key. `now` is the best time known; `None` skips validity dates.
    ///
    /// # Errors
    /// [`TlsError`]; nothing of ours but a ClientHello and a Finished was sent by then.
    pub async fn authenticated(
        &mut self,
        anchor: TrustAnchor<'_>,
        now: Option<UnixTime>,
        random: &mut Drbg,
    ) -> Result<Connection<'_, 'a, R, W>, TlsError> {
        let Self { engine, shared } = self;
        let config = TlsConfig::new().with_server_name(HUB_NAME);
        let mut provider = Provider { random, verifier: EngineVerifier(Verifier::new(anchor, now)) };
        let opened = engine.open(TlsContext::new(&config, &mut provider)).await;
        shared.handshake_finished();
        let verifier = provider.verifier.0;
        match opened {
            Ok(()) => {
                let proof = verifier.finish().map_err(TlsError::Refused)?;
                Ok(Connection { engine, shared, proof })
            }
            Err(error) => Err(match verifier.refusal() {
                Some(refusal) => TlsError::Refused(refusal),
                None => explain(error, shared, TlsError::Handshake),
            }),
        }
    }

    /// Sends what waits and says goodbye (close_notify), if the socket lets it.
    pub fn close(self) -> impl Future<Output = impl Sized> {
        self.engine.close()
    }
}

impl<R: Read, W: Write> Connection<'_, '_, R, W> {
    /// The home CA that vouched for this server: what an enrolling device writes down.
    #[must_use]
    pub fn home_ca(&self) -> &HomeCa {
        &self.proof.home_ca
    }

    /// SHA-256 of the CA certificate that the server showed: what a joining device pins.
    #[must_use]
    pub fn ca_sha256(&self) -> &[u8; 32] {
        &self.proof.ca_sha256
    }

    /// Whether `count` plaintext bytes can be written and flushed now without waiting for the socket.
    #[must_use]
    pub fn has_room_for(&self, count: usize) -> bool {
        self.shared.room() >= count + OUTGOING_OVERHEAD * (1 + count.div_ceil(MAX_OUTGOING_PLAINTEXT))
    }

    /// Reads some plaintext, and meanwhile sends what waits. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`TlsError`]; the connection is of no further use.
    pub async fn read(&mut self, out: &mut [u8]) -> Result<usize, TlsError> {
        self.engine.read(out).await.map_err(|error| explain(error, self.shared, TlsError::Engine))
    }

    /// Encrypts `bytes` and leaves them for the next [`read`](Self::read) or [`close`](Channel::close) to send.
    /// Waits only if there is [no room](Self::has_room_for); must not be cancelled then, or the connection is lost.
    ///
    /// # Errors
    /// [`TlsError`]; the connection is of no further use.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), TlsError> {
        while !bytes.is_empty() {
            let count = self.engine.write(bytes).await.map_err(|error| explain(error, self.shared, TlsError::Engine))?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        self.engine.flush().await.map_err(|error| explain(error, self.shared, TlsError::Engine))
    }
}

fn explain(error: engine::TlsError, shared: &Shared, otherwise: TlsError) -> TlsError {
    match (shared.refused(), error) {
        (Some(record), _) => TlsError::Record(record),
        (None, engine::TlsError::Io(kind)) => TlsError::Io(kind),
        (None, engine::TlsError::IoError) => TlsError::Io(ErrorKind::ConnectionReset),
        (None, engine::TlsError::ConnectionClosed | engine::TlsError::MissingHandshake) => TlsError::Closed,
        (None, engine::TlsError::Unimplemented) => TlsError::UnexpectedMessage,
        (None, _) => otherwise,
    }
}

/// The engine's suite, with a cipher that looks at what it decrypts.
struct CheckedSuite;

impl TlsCipherSuite for CheckedSuite {
    const CODE_POINT: u16 = Aes128GcmSha256::CODE_POINT;
    type Cipher = content::ContentCipher;
    type KeyLen = <Aes128GcmSha256 as TlsCipherSuite>::KeyLen;
    type IvLen = <Aes128GcmSha256 as TlsCipherSuite>::IvLen;
    type Hash = Sha256;
    type LabelBufferSize = <Aes128GcmSha256 as TlsCipherSuite>::LabelBufferSize;
}

struct Provider<'a> {
    random: &'a mut Drbg,
    verifier: EngineVerifier<'a>,
}

/// `client_cert` and `signer` keep the trait's defaults, which give nothing to anyone.
impl CryptoProvider for Provider<'_> {
    type CipherSuite = CheckedSuite;
    type Signature = [u8; 0];

    fn rng(&mut self) -> impl CryptoRngCore {
        &mut *self.random
    }

    fn verifier(&mut self) -> Result<&mut impl TlsVerifier<CheckedSuite>, engine::TlsError> {
        Ok(&mut self.verifier)
    }
}

struct EngineVerifier<'a>(Verifier<'a>);

impl TlsVerifier<CheckedSuite> for EngineVerifier<'_> {
    fn set_hostname_verification(&mut self, _: &str) -> Result<(), engine::TlsError> {
        Ok(()) // The one name of every hub is the verifier's own.
    }

    fn verify_certificate(&mut self, transcript: &Sha256, message: CertificateRef<'_>) -> Result<(), engine::TlsError> {
        let transcript_hash = transcript.clone().finalize().into();
        let mut chain: heapless::Vec<&[u8], 3> = heapless::Vec::new();
        for entry in &message.entries {
            let CertificateEntryRef::X509(der) = entry else {
                return Err(engine::TlsError::InvalidCertificate);
            };
            if chain.push(der).is_err() {
                let _ = self.0.refuse(Refusal::ChainShape);
                return Err(engine::TlsError::InvalidCertificate);
            }
        }
        self.0.certificate(&chain, transcript_hash).map_err(|_| engine::TlsError::InvalidCertificate)
    }

    fn verify_signature(&mut self, message: CertificateVerifyRef<'_>) -> Result<(), engine::TlsError> {
        if message.signature_scheme != SignatureScheme::EcdsaSecp256r1Sha256 {
            let _ = self.0.refuse(Refusal::WrongSignature);
            return Err(engine::TlsError::InvalidSignatureScheme);
        }
        self.0.certificate_verify(message.signature).map_err(|_| engine::TlsError::InvalidSignature)
    }
}
