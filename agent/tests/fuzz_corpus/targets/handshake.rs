//! A server that says anything at any point of a TLS handshake, and behind it.

use super::{Reading, home, tls13};
use embedded_io_adapters::tokio_1::FromTokio;
use hearthkey_agent::UnixTime;
use hearthkey_agent::keys::Drbg;
use hearthkey_agent::tls::{Channel, TlsBuffers, TlsError, TrustAnchor};
use p256::ecdsa::SigningKey;
use sha2::{Digest as _, Sha256};
use tls13::{ALERT, APPLICATION_DATA, HANDSHAKE, Server, certificate, encrypted_extensions};

/// The first byte says how far the server is honest: not at all, its ServerHello, its certificate, the whole handshake; and whether
/// it then mixes data with alerts or with handshake messages. Behind that the input is what it sends: bytes as they are, then
/// encrypted records (a length, then what is in them, content type last).
/// No one is believed who never proved the key, and what is read is what was sent, however it comes.
pub(crate) fn handshake(data: &[u8]) -> Reading {
    let Some((&head, said)) = data.split_first() else { return Reading::Refused };
    let outcome = attacked(head, said, 64 * 1024);
    assert_eq!(outcome, attacked(head, said, 1), "in single bytes");
    let (is_believed, received, ending) = outcome;
    assert_eq!(is_believed, head & 3 == 3, "{ending:?}");
    let expected: Vec<u8> = records(said).filter(|(kind, _)| kind % 2 == 1).flat_map(|(_, content)| content).copied().collect();
    assert!(expected.starts_with(&received), "{received:?}");
    // Whoever comes to the end was interrupted by it, and by nothing that was said.
    if matches!(ending, TlsError::Io(_)) { Reading::Taken } else { Reading::Refused }
}

/// The records that `said` holds: a byte that says kind and length, then the content.
fn records(mut said: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&head, rest) = said.split_first()?;
        let (content, rest) = rest.split_at(usize::from(head >> 1).min(rest.len()));
        said = rest;
        Some((head, content))
    })
}

/// Whether the server was believed, what the device read, and how it ended. `piece` is how many bytes arrive at once.
fn attacked(head: u8, said: &[u8], piece: usize) -> (bool, Vec<u8>, TlsError) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        tokio::join!(visit(ours, piece), serve(theirs, head, said)).0
    })
}

async fn visit(stream: tokio::io::DuplexStream, piece: usize) -> (bool, Vec<u8>, TlsError) {
    let (reader, writer) = tokio::io::split(stream);
    let (reader, writer) = (InPieces { reader: FromTokio::new(reader), piece }, FromTokio::new(writer));
    let mut buffers = Box::new(TlsBuffers::new());
    let mut random = Drbg::from_seed(&[1; 32], "fuzzed");
    let pin: [u8; 32] = Sha256::digest(home::CA).into();
    let now = Some(UnixTime::from_secs(home::NOW));
    let anchor = TrustAnchor::Pinned(&pin);
    let mut channel = Channel::new(reader, writer, &mut buffers);
    let mut connection = match channel.authenticated(anchor, now, &mut random).await {
        Ok(connection) => connection,
        Err(error) => return (false, Vec::new(), error),
    };
    let (mut received, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match connection.read(&mut bytes).await {
            Ok(count) => received.extend(&bytes[..count]),
            Err(error) => return (true, received, error),
        }
    }
}

async fn serve(stream: tokio::io::DuplexStream, head: u8, said: &[u8]) {
    let other_kind = if head & 4 == 0 { ALERT } else { HANDSHAKE };
    let mut server = Server::accept(stream).await;
    let key = SigningKey::from_slice(home::HUB_KEY).expect("a key");
    match head & 3 {
        0 => return server.send_raw(said).await,
        1 => server.say_hello().await,
        2 => {
            server.say_hello().await;
            server.send_messages(&[encrypted_extensions(), certificate(&[home::HUB, home::CA])]).await;
        }
        _ => {
            server.handshake(&[home::HUB, home::CA], &key).await;
            for (kind, content) in records(said) {
                let kind = if kind % 2 == 1 { APPLICATION_DATA } else { other_kind };
                server.send_sealed(&[content, &[kind]].concat()).await;
            }
            return;
        }
    }
    for (_, inner) in records(said) {
        server.send_sealed(inner).await;
    }
}

/// Hands on no more than so many bytes at once.
struct InPieces<R> {
    reader: R,
    piece: usize,
}

impl<R: embedded_io_async::ErrorType> embedded_io_async::ErrorType for InPieces<R> {
    type Error = R::Error;
}

impl<R: embedded_io_async::Read> embedded_io_async::Read for InPieces<R> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, R::Error> {
        let count = out.len().min(self.piece);
        self.reader.read(&mut out[..count]).await
    }
}
